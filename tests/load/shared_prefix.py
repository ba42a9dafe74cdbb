#!/usr/bin/env python3
"""Many requests that begin with the same long text, with the prefix cache and without: what it
spares, how soon first tokens come, and that the answers are the same.

    tests/load/shared_prefix.py --binary build/treeline --model FOLDER [-- SERVER FLAGS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import random
import statistics
import sys
import tempfile
from typing import Any

from client import Answer, complete
from report import percentile, ttft
from serving import ServerProcess


def bodies(args: argparse.Namespace) -> list[dict[str, Any]]:
    rng = random.Random(args.seed)

    def tokens(count: int) -> list[int]:
        return [rng.randint(1000, args.max_token) for _ in range(count)]

    shared = tokens(args.shared)
    return [
        {"prompt": shared + tokens(args.own), "max_tokens": args.output, "temperature": 0,
         "ignore_eos": True, "logprobs": 0, "stream": True,
         "stream_options": {"include_usage": True}}
        for _ in range(args.requests)
    ]


async def run(port: int, requests: list[dict[str, Any]], concurrency: int) -> list[Answer]:
    slots = asyncio.Semaphore(concurrency)

    async def one(body: dict[str, Any]) -> Answer:
        async with slots:
            return await complete("127.0.0.1", port, body)

    return await asyncio.gather(*(one(body) for body in requests))


def measure(args: argparse.Namespace, folder: pathlib.Path, memory: str) -> dict[str, Any]:
    server = ServerProcess(args.binary, args.model, folder, "--prefix-cache-memory", memory,
                           *args.flags)
    server.start()
    try:
        before = server.metrics()
        answers = asyncio.run(run(server.port, bodies(args), args.concurrency))
        after = server.wait_until_idle()
    finally:
        server.terminate()
    for answer in answers:
        if answer.status != 200 or not answer.done:
            sys.exit(f"a request failed: {answer.status} {answer.error}")
    waits = [ttft(answer) for answer in answers]
    return {
        "computed": int(after["prompt_tokens_total"] - before["prompt_tokens_total"]),
        "ttft_median_s": statistics.median(waits),
        "ttft_p99_s": percentile(waits, 99),
        "seconds": max(a.end for a in answers) - min(a.sent for a in answers),
        "answers": [answer.content() for answer in answers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--shared", type=int, default=1500, help="tokens that all begin with")
    parser.add_argument("--own", type=int, default=30, help="tokens of each alone")
    parser.add_argument("--output", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-token", type=int, default=40000, help="ids are 1,000 to this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of the server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = {memory: measure(args, pathlib.Path(name), memory) for memory in ("auto", "0")}
    on, off = results["auto"], results["0"]
    summary = {
        "prompt_tokens": args.requests * (args.shared + args.own),
        "same_answers": on.pop("answers") == off.pop("answers"),
        "with_cache": on,
        "without": off,
        "tokens_spared": 1 - on["computed"] / off["computed"],
        "ttft_ratio": on["ttft_median_s"] / off["ttft_median_s"],
    }
    print(json.dumps(summary, indent=2))
    if not summary["same_answers"]:
        sys.exit("the answers differ")


if __name__ == "__main__":
    main()
