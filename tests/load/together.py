#!/usr/bin/env python3
"""Whether requests bring the same answers together as alone: each is asked on its own, then all at
once, as streams, greedily.

    tests/load/together.py --binary build/treeline --model FOLDER --questions question.jsonl \
        --streams 64 [-- --device cuda]

Questions are JSON lines with `turns` (MT-Bench), of which the first is asked. On a CPU no answer may
differ. On a GPU sums take another order in another batch: where two tokens are about as likely, an
answer may take the other one, and what follows differs. So it is told for each answer where it
differs first and how far apart the two tokens were when it was alone. The exit status is 1 where a
stream is not complete.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import http.client
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

from serving import ServerProcess


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a stream brought."""

    tokens: list[str]
    top: list[dict[str, float]]  # Log-probabilities of the likeliest tokens, at each token.
    complete: bool  # It ended as it should, with as many tokens as it says.


def ask(port: int, body: dict[str, Any]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"a request failed: {response.read().decode()}")
    events = [line[len("data: "):].decode().strip() for line in response
              if line.startswith(b"data: ")]
    connection.close()
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    entries = [entry for choice in choices if choice.get("logprobs")
               for entry in choice["logprobs"]["content"]]
    finished = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    completion_tokens = (chunks[-1].get("usage") or {}).get("completion_tokens")
    # The token that ends an answer is counted, and is not part of it.
    expected = len(entries) + (finished == ["stop"] and completion_tokens == len(entries) + 1)
    return Answer([entry["token"] for entry in entries],
                  [{top["token"]: top["logprob"] for top in entry["top_logprobs"]}
                   for entry in entries],
                  events[-1] == "[DONE]" and len(finished) == 1 and completion_tokens == expected)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where an answer first differs."""

    request: int
    position: int
    margin: float | None  # Of the two likeliest tokens, alone; None: one of the answers ended.


def differences(alone: list[Answer], others: list[Answer]) -> list[Difference]:
    found = []
    for i, (a, b) in enumerate(zip(alone, others, strict=True)):
        if a.tokens == b.tokens:
            continue
        shorter = min(len(a.tokens), len(b.tokens))
        position = next((j for j in range(shorter) if a.tokens[j] != b.tokens[j]), shorter)
        margin = None
        if position < shorter:
            first, second = sorted(a.top[position].values(), reverse=True)[:2]
            margin = first - second
        found.append(Difference(i, position, margin))
    return found


def run(port: int, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Every request alone, twice, then all together, twice."""
    results: dict[str, Any] = {"requests": len(bodies)}
    answers: dict[str, list[Answer]] = {}
    for name, streams in (("alone", 1), ("alone again", 1), ("together", len(bodies)),
                          ("together again", len(bodies))):
        with concurrent.futures.ThreadPoolExecutor(streams) as pool:
            start = time.monotonic()
            answers[name] = list(pool.map(lambda body: ask(port, body), bodies))
            seconds = time.monotonic() - start
        found = differences(answers["alone"], answers[name])
        results[name] = {
            "complete": sum(answer.complete for answer in answers[name]),
            "tokens": sum(len(answer.tokens) for answer in answers[name]),
            "seconds": seconds,
            "different_answers": len(found),
            "differences": [dataclasses.asdict(difference) for difference in found],
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--binary", required=True)
    add("--model", type=pathlib.Path, required=True)
    add("--questions", type=pathlib.Path, required=True)
    add("--streams", type=int, default=64)
    add("--output", type=int, default=64, help="tokens at most, of each answer")
    add("--json", type=pathlib.Path)
    add("flags", nargs="*", help="of the server")
    args = parser.parse_args()
    entries = [json.loads(line) for line in args.questions.read_text().splitlines()]
    if len(entries) < args.streams:
        sys.exit(f"{args.questions} has {len(entries)} questions for {args.streams} streams")
    bodies = [{"messages": [{"role": "user", "content": entry["turns"][0]}],
               "max_tokens": args.output, "temperature": 0, "logprobs": True, "top_logprobs": 2,
               "stream": True, "stream_options": {"include_usage": True}}
              for entry in entries[:args.streams]]
    with tempfile.TemporaryDirectory() as name:
        server = ServerProcess(args.binary, args.model, pathlib.Path(name), *args.flags)
        server.start()
        try:
            results = run(server.port, bodies)
            server.wait_until_idle()
        finally:
            exit_status = server.terminate()
    results["exit_status"] = exit_status
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    incomplete = 0
    for name, result in results.items():
        if not isinstance(result, dict):
            print(f"{name}: {result}")
            continue
        incomplete += len(bodies) - result["complete"]
        margins = ["an end" if d["margin"] is None else f"{d['margin']:.3g}"
                   for d in result["differences"]]
        print(f"{name}: {result['complete']} of {len(bodies)} complete, {result['tokens']} tokens"
              f" in {result['seconds']:.2f} s, {result['different_answers']} different"
              + (f": margins {', '.join(margins)}" if margins else ""))
    sys.exit(incomplete > 0 or exit_status != 0)


if __name__ == "__main__":
    main()
