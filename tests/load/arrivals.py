"""When requests come and how long they are: Poisson processes, and recorded traces.

A trace is a CSV file with the columns arrival_s, prompt_tokens, output_tokens, or JSON lines with
these fields and, where prompts share their beginnings, hash_ids: one id for each block of
BLOCK_TOKENS prompt tokens, equal for equal beginnings. Files that end in .zst are read by `zstd`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import random
import subprocess
from collections.abc import Iterator
from typing import Any

BLOCK_TOKENS = 512
# The first ids are special tokens.
FIRST_PLAIN_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class Arrival:
    time_s: float  # After the first request.
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Drawn uniformly, both ends included."""

    prompt: tuple[int, int]
    output: tuple[int, int]

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return rng.randint(*self.prompt), rng.randint(*self.output)


def poisson(rate: float, count: int, lengths: Lengths, rng: random.Random) -> Iterator[Arrival]:
    """`rate` requests a second on average."""
    now = 0.0
    for _ in range(count):
        yield Arrival(now, *lengths.draw(rng))
        now += rng.expovariate(rate)


def read_trace(path: pathlib.Path) -> Iterator[Arrival]:
    if path.suffix == ".zst":
        text = subprocess.run(["zstd", "-dc", "--long=27", str(path)], check=True,
                              capture_output=True).stdout.decode()
    else:
        text = path.read_text()
    lines = text.splitlines()
    records: Iterator[dict[str, Any]] = (
        csv.DictReader(lines) if path.name.endswith(".csv") else map(json.loads, lines))
    for record in records:
        yield Arrival(float(record["arrival_s"]), int(record["prompt_tokens"]),
                      int(record["output_tokens"]), tuple(record.get("hash_ids", ())))


def trace(path: pathlib.Path, count: int, speed: float, max_prompt: int,
          max_output: int) -> Iterator[Arrival]:
    """The first `count` requests of a trace, `speed` times as fast, cut to what the model takes."""
    for _, arrival in zip(range(count), read_trace(path), strict=False):
        yield dataclasses.replace(arrival, time_s=arrival.time_s / speed,
                                  prompt_tokens=max(1, min(arrival.prompt_tokens, max_prompt)),
                                  output_tokens=max(1, min(arrival.output_tokens, max_output)))


def prompt_ids(arrival: Arrival, vocab_size: int, rng: random.Random) -> list[int]:
    """Token ids of the arrival's length; blocks of equal ids are equal, the rest is drawn."""
    ids: list[int] = []
    for block in arrival.blocks:
        block_rng = random.Random(f"block {block}")
        ids += (block_rng.randrange(FIRST_PLAIN_TOKEN, vocab_size) for _ in range(BLOCK_TOKENS))
    ids += (rng.randrange(FIRST_PLAIN_TOKEN, vocab_size)
            for _ in range(arrival.prompt_tokens - len(ids)))
    return ids[:arrival.prompt_tokens]
