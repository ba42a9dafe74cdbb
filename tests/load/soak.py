#!/usr/bin/env python3
"""Keeps a server under load and watches what it holds: memory, file descriptors, threads, slots.

The server is started here, with a tiny model unless --model names one. What every different request
must bring comes from another server that has one slot and no prefix cache. At the end: all streams
complete, no answer different, slots free, descriptors as before, and the slope of memory over the
second half.

    soak.py --binary build/treeline --streams 1000 --duration 600 --json soak.json
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import load
import offline
import report
import tiny_model
from arrivals import Lengths
from serving import ServerProcess

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Sample:
    """One look at the server."""

    time_s: float
    rss_mib: float
    fds: int
    threads: int


def slope(samples: list[Sample]) -> float:
    """MiB a minute that memory grew by, as least squares have it."""
    if len(samples) < 2:
        return 0.0
    mean_t = sum(s.time_s for s in samples) / len(samples)
    mean_r = sum(s.rss_mib for s in samples) / len(samples)
    spread = sum((s.time_s - mean_t) ** 2 for s in samples)
    return 60 * sum((s.time_s - mean_t) * (s.rss_mib - mean_r) for s in samples) / spread


async def watch(server: ServerProcess, interval: float, samples: list[Sample]) -> None:
    start = time.monotonic()
    while True:
        usage = server.usage()
        samples.append(Sample(time.monotonic() - start, usage.rss_mib, usage.fds, usage.threads))
        await asyncio.sleep(interval)


async def run_load(args: argparse.Namespace, server: ServerProcess, bodies: list[load.Body],
                   expected: list[Any], samples: list[Sample]) -> load.Load:
    running = load.Load("127.0.0.1", server.port)
    watcher = asyncio.create_task(watch(server, args.duration / 200, samples))
    await running.run_closed(args.streams, args.duration, bodies, expected, args.seed)
    watcher.cancel()
    return running


def soak(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Runs it all; the summary."""
    model = args.model or tiny_model.make(folder / "tiny")
    bodies = load.make_distinct(args.distinct, Lengths(args.prompt_tokens, args.output_tokens),
                                tiny_model.VOCAB_SIZE, args.seed)
    expected = offline.record(args.binary, model, bodies, folder / "alone")
    server = ServerProcess(args.binary, model, folder, *offline.COMMON_FLAGS,
                           "--log-level", "warning",
                           "--max-slots", str(args.slots or args.streams),
                           "--max-batch-tokens", str(max(512, args.slots or args.streams)),
                           "--max-queued-requests", str(args.streams),
                           "--max-queued-tokens", str(args.streams * args.prompt_tokens[1]),
                           "--max-connections", str(args.streams + 64), *args.flag)
    server.start()
    before = server.usage()
    samples: list[Sample] = []
    prober = subprocess.Popen([sys.executable, str(HERE / "prober.py"), str(server.port)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    running = asyncio.run(run_load(args, server, bodies, expected, samples))
    latencies = json.loads(prober.communicate()[0])
    metrics = server.wait_until_idle()
    deadline = time.monotonic() + 30
    while server.usage().fds > before.fds and time.monotonic() < deadline:
        time.sleep(0.1)
    after = server.usage()
    second_half = samples[len(samples) // 2:]
    summary = running.summary(report.Slo(args.slo_ttft, args.slo_tpot)) | {
        "rss_mib": {"start": before.rss_mib, "middle": second_half[0].rss_mib,
                    "end": second_half[-1].rss_mib, "slope_per_minute": slope(second_half)},
        "fds": {"before": before.fds, "most": max(s.fds for s in samples), "after": after.fds},
        "threads_most": max(s.threads for s in samples),
        "slots_used_after": metrics["state_slots_used"],
        "probes_s": {path: {f"p{p}": report.percentile(taken, p) for p in (50, 99, 100)}
                     for path, taken in latencies.items()},
        "prefix_cache_hits": metrics.get("prefix_cache_hits_total", 0.0),
        "exit_status": server.terminate(),
    }
    summary["passed"] = (not running.failures and not running.mismatches
                         and summary["complete"] == summary["requests"]
                         and after.fds <= before.fds and summary["exit_status"] == 0)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--binary", required=True)
    add("--model", type=pathlib.Path, help="default: a tiny one, made here")
    add("--streams", type=int, default=100)
    add("--slots", type=int, default=0, help="default: one a stream")
    add("--duration", type=float, default=60.0)
    add("--distinct", type=int, default=100)
    add("--prompt-tokens", type=load.parse_range, default=(1, 2000), metavar="LOW:HIGH")
    add("--output-tokens", type=load.parse_range, default=(1, 200), metavar="LOW:HIGH")
    add("--slo-ttft", type=float, default=10.0)
    add("--slo-tpot", type=float, default=0.5)
    add("--seed", type=int, default=1)
    add("--flag", action="append", default=[], help="more for the server, repeatable")
    add("--json", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        summary = soak(args, pathlib.Path(folder))
    print(report.render(summary))
    for name in ("rss_mib", "fds", "threads_most", "slots_used_after", "probes_s", "passed"):
        print(f"{name:<17} {summary[name]}")
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(0 if summary["passed"] else 1)


if __name__ == "__main__":
    main()
