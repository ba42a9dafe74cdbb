#!/usr/bin/env python3
"""What guessing ahead brings, beside plain decoding on the same server in turns: seconds, guesses
that were right, and that the answers are the same.

    tests/load/speculation.py --binary build/treeline --model FOLDER --questions FILE.jsonl \
        --category rag --count 20 [-- SERVER FLAGS]

Questions are JSON lines with `category` and `turns` (MT-Bench, Spec-Bench); first turns are asked.
"""

from __future__ import annotations

import argparse
import http.client
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

from serving import ServerProcess


def ask(port: int, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds, and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        sys.exit(f"a request failed: {answer}")
    return time.monotonic() - start, answer


def compare(port: int, questions: list[str], options: dict[str, Any]) -> dict[str, Any]:
    seconds = {"auto": 0.0, "none": 0.0}
    tokens = accepted = rejected = different = 0
    for i, question in enumerate(questions):
        body = {**options, "messages": [{"role": "user", "content": question}]}
        # The prompt's state is kept from here on, so that decoding alone is timed.
        for _ in range(2):
            ask(port, {**body, "max_tokens": 1})
        answers = {}
        for drafter in ("auto", "none") if i % 2 else ("none", "auto"):
            took, answers[drafter] = ask(port, {**body, "speculation": {"drafter": drafter}})
            seconds[drafter] += took
        texts = {answer["choices"][0]["message"]["content"] for answer in answers.values()}
        different += len(texts) - 1
        usage = answers["auto"]["usage"]
        tokens += usage["completion_tokens"]
        accepted += usage["completion_tokens_details"]["accepted_prediction_tokens"]
        rejected += usage["completion_tokens_details"]["rejected_prediction_tokens"]
    return {
        "questions": len(questions),
        "tokens": tokens,
        "different_answers": different,
        "accepted": accepted,
        "rejected": rejected,
        "tokens_a_step": tokens / (tokens - accepted),
        "speedup": seconds["none"] / seconds["auto"],
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
    parser.add_argument("flags", nargs="*", help="of the server")
    args = parser.parse_args()
    entries = [json.loads(line) for line in args.questions.read_text().splitlines()]
    options = {"max_tokens": args.output, "temperature": args.temperature, "seed": 1}
    with tempfile.TemporaryDirectory() as name:
        server = ServerProcess(args.binary, args.model, pathlib.Path(name), *args.flags)
        server.start()
        try:
            for category in args.category or [None]:
                questions = [entry["turns"][0] for entry in entries
                             if category in (None, entry["category"])]
                result = compare(server.port, questions[:args.count], options)
                print(json.dumps({"category": category, **result}), flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
