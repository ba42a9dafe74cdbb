#!/usr/bin/env python3
"""Measures what ten times the capacity does to those who are served.

First as many streams as there are slots, for a while: the steady load at capacity, which also tells
how many requests a second that is. Then the same with a Poisson process of ten times that rate
beside it. Those who are admitted should not notice by their inter-token latency, and the others be
refused at once.

    burst.py --binary build/treeline --model MODEL --slots 16 --duration 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import random
import sys
import tempfile
from typing import Any

import arrivals
import load
import report
from arrivals import Lengths
from serving import ServerProcess

FACTOR = 10


async def steady(port: int, args: argparse.Namespace) -> load.Load:
    running = load.Load("127.0.0.1", port)
    bodies = load.make_distinct(args.distinct, Lengths(args.prompt_tokens, args.output_tokens),
                                args.vocab_size, args.seed)
    await running.run_closed(args.slots, args.duration, bodies, None, args.seed)
    return running


async def burst(port: int, rate: float, args: argparse.Namespace) -> tuple[load.Load, load.Load]:
    rng = random.Random(args.seed)
    lengths = Lengths(args.prompt_tokens, args.output_tokens)
    made = list(arrivals.poisson(rate, int(rate * args.duration), lengths, rng))
    schedule = ((a, load.make_body(a, args.vocab_size, rng, verify=False)) for a in made)
    extra = load.Load("127.0.0.1", port)
    running, _ = await asyncio.gather(steady(port, args), extra.run_open(schedule))
    return running, extra


def measure(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    slo = report.Slo(args.slo_ttft, args.slo_tpot)
    server = ServerProcess(args.binary, args.model, folder, "--max-slots", str(args.slots),
                           "--max-queued-requests", str(args.slots), *args.flag)
    server.start()
    calm = asyncio.run(steady(server.port, args)).summary(slo)
    rate = FACTOR * calm["complete"] / calm["duration_s"]
    running, extra = asyncio.run(burst(server.port, rate, args))
    server.wait_until_idle(600)
    server.terminate()
    both = report.summarize(running.answers + extra.answers, running.failures + extra.failures, slo)
    return {"calm": calm, "burst": both, "burst_rate_per_s": rate,
            "itl_p99_ratio": both["itl_s"]["p99"] / calm["itl_s"]["p99"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--binary", required=True)
    add("--model", type=pathlib.Path, required=True)
    add("--slots", type=int, default=16)
    add("--duration", type=float, default=60.0)
    add("--prompt-tokens", type=load.parse_range, default=(16, 256), metavar="LOW:HIGH")
    add("--output-tokens", type=load.parse_range, default=(32, 96), metavar="LOW:HIGH")
    add("--vocab-size", type=int, default=49152)
    add("--distinct", type=int, default=1000)
    add("--slo-ttft", type=float, default=10.0)
    add("--slo-tpot", type=float, default=0.5)
    add("--seed", type=int, default=1)
    add("--flag", action="append", default=[], help="more for the server, repeatable")
    add("--json", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        summary = measure(args, pathlib.Path(folder))
    print("steady load at capacity:\n" + report.render(summary["calm"]))
    print(f"\nwith {summary['burst_rate_per_s']:.1f} requests/s beside it:\n"
          + report.render(summary["burst"]))
    print(f"\np99 inter-token latency: {summary['itl_p99_ratio']:.2f} times the steady one")
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(1 if summary["burst"]["failures"] else 0)


if __name__ == "__main__":
    main()
