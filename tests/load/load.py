#!/usr/bin/env python3
"""Puts a load on a server and measures it: open (Poisson, a trace, a burst) or closed (N streams).

Answers can be checked: `--record FILE` runs each different request once, alone, and writes what
came; `--expect FILE` compares every answer under load with it. A row's bits do not depend on its
batch, so text, log-probabilities, finish reason and counts must all be the same: a token lost,
doubled, or taken from another stream shows.

    load.py --port 8080 --arrivals closed --streams 1000 --duration 600 --distinct 200 --expect F
    load.py --port 8080 --arrivals poisson --rate 20 --requests 500
    load.py --port 8080 --arrivals trace --trace azure_llm_2023_conv.csv --speed 2 --requests 1000
    load.py --port 8080 --arrivals burst --requests 640
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import arrivals
import client
import report
from arrivals import Arrival, Lengths

Body = dict[str, Any]

# How long a closed stream waits after a refusal, instead of asking again at once.
BACKOFF_S = 0.2


def make_body(arrival: Arrival, vocab_size: int, rng: random.Random, verify: bool) -> Body:
    body: Body = {
        "prompt": arrivals.prompt_ids(arrival, vocab_size, rng),
        "max_tokens": arrival.output_tokens,
        "temperature": 1.0,
        "seed": rng.getrandbits(32),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if verify:
        body["logprobs"] = 0
    return body


def make_distinct(count: int, lengths: Lengths, vocab_size: int, seed: int) -> list[Body]:
    """Different requests, a function of the seed."""
    rng = random.Random(seed)
    return [make_body(Arrival(0.0, *lengths.draw(rng)), vocab_size, rng, verify=True)
            for _ in range(count)]


class Load:
    """Runs requests and gathers what they bring."""

    def __init__(self, host: str, port: int):
        self.host = host
        self.port = port
        self.answers: list[client.Answer] = []
        self.failures: list[str] = []
        self.verified = 0
        self.mismatches: list[str] = []

    async def run_one(self, body: Body, expected: list[Any] | None = None) -> client.Answer | None:
        start = time.monotonic()
        try:
            answer = await client.complete(self.host, self.port, body)
        except (OSError, client.Broken, asyncio.TimeoutError) as error:
            elapsed = time.monotonic() - start
            self.failures.append(f"{type(error).__name__} after {elapsed:.0f} s: {error}")
            return None
        if answer.status == 200 and not answer.done:
            self.failures.append(f"a stream ended early: {answer.error}")
            return None
        if answer.status == 200 and expected is not None:
            self.verified += 1
            if answer.content() != expected:
                self.mismatches.append(f"got {answer.content()} in place of {expected}")
        self.answers.append(answer)
        return answer

    async def run_open(self, schedule: Iterator[tuple[Arrival, Body]]) -> None:
        """Each at its time, however many run already."""
        start = time.monotonic()
        tasks = []
        for arrival, body in schedule:
            await asyncio.sleep(max(0.0, start + arrival.time_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.run_one(body)))
        await asyncio.gather(*tasks)

    async def run_closed(self, streams: int, duration: float, bodies: list[Body],
                         expected: list[Any] | None, seed: int) -> None:
        """`streams` at once: where one ends, the next begins."""
        end = time.monotonic() + duration

        async def run_stream(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            while time.monotonic() < end:
                i = rng.randrange(len(bodies))
                answer = await self.run_one(bodies[i], expected[i] if expected else None)
                if answer is None or answer.status != 200:
                    await asyncio.sleep(BACKOFF_S)

        await asyncio.gather(*(run_stream(i) for i in range(streams)))

    def summary(self, slo: report.Slo) -> dict[str, Any]:
        summary = report.summarize(self.answers, self.failures, slo)
        if self.verified:
            summary |= {"verified": self.verified, "mismatches": len(self.mismatches)}
        return summary


async def record(host: str, port: int, bodies: list[Body]) -> list[Any]:
    """What each request brings when nothing else runs."""
    load = Load(host, port)
    expected = []
    for body in bodies:
        answer = await load.run_one(body)
        if answer is None or answer.status != 200:
            raise RuntimeError(f"a request alone failed: {load.failures or answer.error}")
        expected.append(answer.content())
    return expected


def schedule_of(args: argparse.Namespace) -> Iterator[tuple[Arrival, Body]]:
    rng = random.Random(args.seed)
    lengths = Lengths(args.prompt_tokens, args.output_tokens)
    made: Iterator[Arrival]
    if args.arrivals == "poisson":
        made = arrivals.poisson(args.rate, args.requests, lengths, rng)
    elif args.arrivals == "trace":
        made = arrivals.trace(args.trace, args.requests, args.speed, args.prompt_tokens[1],
                              args.output_tokens[1])
    else:
        made = (Arrival(0.0, *lengths.draw(rng)) for _ in range(args.requests))
    for arrival in made:
        yield arrival, make_body(arrival, args.vocab_size, rng, verify=False)


def parse_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low), int(high or low)


def add_arguments(add: Callable[..., Any]) -> None:
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("--arrivals", choices=("closed", "poisson", "trace", "burst"), default="closed")
    add("--streams", type=int, default=8, help="closed: so many at once")
    add("--duration", type=float, default=30.0, help="closed: seconds")
    add("--requests", type=int, default=100, help="open: how many")
    add("--rate", type=float, default=5.0, help="poisson: requests a second")
    add("--trace", type=pathlib.Path, help="trace: the file")
    add("--speed", type=float, default=1.0, help="trace: so many times as fast as recorded")
    add("--prompt-tokens", type=parse_range, default=(16, 512), metavar="LOW:HIGH")
    add("--output-tokens", type=parse_range, default=(16, 64), metavar="LOW:HIGH")
    add("--distinct", type=int, default=50, help="closed: different requests")
    add("--vocab-size", type=int, default=288, help="prompts are random ids below it")
    add("--seed", type=int, default=1)
    add("--slo-ttft", type=float, default=1.0, metavar="SECONDS")
    add("--slo-tpot", type=float, default=0.1, metavar="SECONDS")
    add("--record", type=pathlib.Path, help="write what each request of --distinct brings alone")
    add("--expect", type=pathlib.Path, help="closed: compare with what --record wrote")
    add("--json", type=pathlib.Path, help="write the summary here too")


async def run(args: argparse.Namespace) -> int:
    bodies = make_distinct(args.distinct, Lengths(args.prompt_tokens, args.output_tokens),
                           args.vocab_size, args.seed)
    if args.record:
        args.record.write_text(json.dumps(await record(args.host, args.port, bodies)))
        return 0
    load = Load(args.host, args.port)
    if args.arrivals == "closed":
        expected = json.loads(args.expect.read_text()) if args.expect else None
        await load.run_closed(args.streams, args.duration, bodies, expected, args.seed)
    else:
        await load.run_open(schedule_of(args))
    summary = load.summary(report.Slo(args.slo_ttft, args.slo_tpot))
    print(report.render(summary))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if load.failures or load.mismatches else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser.add_argument)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
