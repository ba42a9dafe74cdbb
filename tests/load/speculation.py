#!/usr/bin/env python3
"""What guessing ahead brings, beside plain decoding on the same server in turns: tokens a second,
tokens a step, and that the answers are the same.

    tests/load/speculation.py --binary build/treeline --model FOLDER --questions FILE.jsonl \
        --category rag --count 20 --drafter ngram --nodes 8,16 [-- SERVER FLAGS]

Questions are JSON lines with `category` and `turns` (MT-Bench, Spec-Bench); first turns are asked,
--streams of them at a time (with more than one, all of them twice). A small model repeats itself,
which is easy to guess, so tokens a step are also counted over the steps that bring something new:
not all of it inside a run of 8 tokens that came before.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import http.client
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

from serving import ServerProcess

_RUN = 8


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request was given, and what it took to decode it."""

    seconds: float
    steps: list[list[str]]  # The tokens of each event: one a step.
    accepted: int
    rejected: int

    @property
    def tokens(self) -> list[str]:
        return [token for step in self.steps for token in step]


def ask(port: int, body: dict[str, Any]) -> Answer:
    """Streams an answer; the seconds are those from its first token to its last."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    extra = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, **extra}),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"a request failed: {response.read().decode()}")
    steps, times, usage = [], [], {}
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        logprobs = event["choices"][0].get("logprobs") if event["choices"] else None
        if logprobs and logprobs["content"]:
            steps.append([entry["token"] for entry in logprobs["content"]])
            times.append(time.monotonic())
    connection.close()
    details = usage["completion_tokens_details"]
    return Answer(times[-1] - times[0], steps, details["accepted_prediction_tokens"],
                  details["rejected_prediction_tokens"])


def repeated(tokens: list[str]) -> list[bool]:
    """For each token: it ends or lies inside a run of _RUN tokens that came before."""
    seen: set[tuple[str, ...]] = set()
    inside = [False] * len(tokens)
    for end in range(_RUN, len(tokens) + 1):
        run = tuple(tokens[end - _RUN:end])
        if run in seen:
            inside[end - _RUN:end] = [True] * _RUN
        seen.add(run)
    return inside


def new_steps(answer: Answer) -> list[int]:
    """The lengths of the steps after the first, but for those of repeated tokens only."""
    inside, lengths, position = repeated(answer.tokens), [], 0
    for i, step in enumerate(answer.steps):
        if i > 0 and not all(inside[position:position + len(step)]):
            lengths.append(len(step))
        position += len(step)
    return lengths


def compare(pool: concurrent.futures.Executor, port: int, questions: list[str],
            options: dict[str, Any], drafter: str, nodes: int, streams: int) -> dict[str, Any]:
    """`pool` has a process for each stream: one alone would hold up many."""
    answers: dict[str, list[Answer]] = {}
    seconds: dict[str, float] = collections.defaultdict(float)
    bodies = [{**options, "messages": [{"role": "user", "content": q}]} for q in questions]
    as_drafted = [{**body, "speculation": {"drafter": drafter, "max_nodes": nodes}}
                  for body in bodies]
    as_plain = [{**body, "speculation": {"drafter": "none"}} for body in bodies]
    ask_all = functools.partial(pool.map, functools.partial(ask, port))
    # Prompts' states are kept from here on, so that decoding alone is timed.
    for _ in range(2):
        list(ask_all([{**body, "max_tokens": 1} for body in bodies]))
    if streams == 1:
        for i, (drafted, plain) in enumerate(zip(as_drafted, as_plain)):
            turns = [(drafter, drafted), ("none", plain)]
            # In turns: whatever slows the machine slows both.
            for name, body in turns if i % 2 else turns[::-1]:
                answers.setdefault(name, []).extend(ask_all([body]))
        for name in answers:
            seconds[name] = sum(answer.seconds for answer in answers[name])
    else:
        turns = [("none", as_plain), (drafter, as_drafted)]
        # What slows the machine, or what it has yet to warm up, slows both.
        for name, all_of in turns + turns[::-1]:
            start = time.monotonic()
            answers.setdefault(name, []).extend(ask_all(all_of))
            seconds[name] += time.monotonic() - start
    drafted = answers[drafter]
    tokens = sum(len(answer.tokens) for answer in drafted)
    decoded = tokens - len(drafted)  # The first of an answer is the prompt's.
    accepted = sum(answer.accepted for answer in drafted)
    lengths = [length for answer in drafted for length in new_steps(answer)]
    return {
        "questions": len(drafted),
        "nodes": nodes,
        "tokens": tokens,
        "different_answers": sum(a.tokens != b.tokens for a, b in zip(drafted, answers["none"])),
        "accepted": accepted,
        "rejected": sum(answer.rejected for answer in drafted),
        "tokens_a_step": decoded / (decoded - accepted),
        "tokens_a_step_of_new_text": sum(lengths) / max(1, len(lengths)),
        "plain_tokens_per_second": decoded / seconds["none"],
        "speedup": seconds["none"] / seconds[drafter],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--questions", type=pathlib.Path, required=True)
    parser.add_argument("--category", action="append", help="repeatable; default: all, together")
    parser.add_argument("--count", type=int, default=20, help="of each category")
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--drafter", default="auto", help="as in a request's speculation")
    parser.add_argument("--nodes", default="64", help="of a sequence's tree; several: 8,16,64")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of the server")
    args = parser.parse_args()
    entries = [json.loads(line) for line in args.questions.read_text().splitlines()]
    options = {"max_tokens": args.output, "temperature": args.temperature, "seed": 1}
    with tempfile.TemporaryDirectory() as name:
        server = ServerProcess(args.binary, args.model, pathlib.Path(name), *args.flags)
        server.start()
        try:
            with concurrent.futures.ProcessPoolExecutor(args.streams) as pool:
                for category in args.category or [None]:
                    questions = [entry["turns"][0] for entry in entries
                                 if category in (None, entry["category"])]
                    for nodes in args.nodes.split(","):
                        result = compare(pool, server.port, questions[:args.count], options,
                                         args.drafter, int(nodes), args.streams)
                        print(json.dumps({"category": category, **result}), flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
