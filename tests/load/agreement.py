#!/usr/bin/env python3
"""How far two ways of running one model agree: a GPU and a CPU, bf16 and fp32, drafts and none.

    tests/load/agreement.py --binary build/treeline --model FOLDER --text wiki.test.raw \
        --reference="--dtype fp32 --matmul-kernel fp32" \
        --candidate="--device cuda" --candidate="--device cuda --dtype fp32" [-- FLAGS OF ALL]

Pieces of the text, of lengths spread between two bounds, are given to one server after the other,
which say how probable they found each token after those before it (teacher-forced). Per candidate:
the differences of these log-probabilities, and how often the likeliest token is another one. That
may happen where the reference's two likeliest are closer together than log-probabilities of likely
tokens differ anyway; where it happens elsewhere, the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import pathlib
import shlex
import sys
import tempfile
from typing import Any

from load import parse_range
from serving import ServerProcess

_TOP = 5  # How many of the likeliest tokens are asked for.
_CHARACTERS_A_TOKEN = 12  # More than any tokenizer makes of text, on average.


@dataclasses.dataclass(frozen=True)
class Position:
    """What a server found of one token of the text, given those before."""

    logprob: float  # Of the token itself.
    top: dict[str, float]  # The likeliest tokens.

    @property
    def likeliest(self) -> str:
        return max(self.top, key=self.top.__getitem__)

    @property
    def margin(self) -> float:
        first, second = sorted(self.top.values(), reverse=True)[:2]
        return first - second


def call(port: int, path: str, body: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        sys.exit(f"{path} failed: {answer['error']['message']}")
    return answer


def make_prompts(port: int, text: str, count: int, bounds: tuple[int, int]) -> list[list[int]]:
    """Token ids; the pieces begin at even distances, and each is longer by the same factor."""
    shortest, longest = bounds
    prompts = []
    for i in range(count):
        length = round(shortest * (longest / shortest) ** (i / max(1, count - 1)))
        start = i * len(text) // count
        piece = text[start:start + length * _CHARACTERS_A_TOKEN]
        tokens = call(port, "/tokenize", {"prompt": piece, "add_special_tokens": False})["tokens"]
        if len(tokens) < length:
            sys.exit(f"the text is too short: a piece of {length} tokens has only {len(tokens)}")
        prompts.append(tokens[:length])
    return prompts


def score(port: int, tokens: list[int]) -> list[Position]:
    """Of every token but the first."""
    answer = call(port, "/v1/completions",
                  {"prompt": tokens, "echo": True, "logprobs": _TOP, "max_tokens": 1,
                   "temperature": 0})
    logprobs = answer["choices"][0]["logprobs"]
    inside = slice(1, len(tokens))
    return [Position(logprob, top) for logprob, top in zip(
        logprobs["token_logprobs"][inside], logprobs["top_logprobs"][inside], strict=True)]


def compare(reference: list[Position], candidate: list[Position]) -> dict[str, Any]:
    """Over all positions."""
    differences = [abs(a.logprob - b.logprob) for a, b in zip(reference, candidate, strict=True)]
    of_likely = [abs(a.top[token] - b.top[token])
                 for a, b in zip(reference, candidate, strict=True)
                 for token in a.top.keys() & b.top.keys()]
    margins = [a.margin for a, b in zip(reference, candidate, strict=True)
               if a.likeliest != b.likeliest]
    return {
        "tokens": len(differences),
        "mean_logprob": sum(b.logprob for b in candidate) / len(candidate),
        "largest_difference": max(differences),
        "mean_difference": sum(differences) / len(differences),
        "largest_difference_of_likely_tokens": max(of_likely),
        "other_likeliest": len(margins),
        "largest_margin_where_other": max(margins, default=0.0),
        "other_likeliest_beyond_differences": sum(margin > max(of_likely) for margin in margins),
    }


class Servers:
    """The same model, served with one set of flags after the other."""

    def __init__(self, args: argparse.Namespace, folder: pathlib.Path):
        self._args = args
        self._folder = folder
        self.prompts: list[list[int]] = []

    def score(self, flags: str) -> list[Position]:
        """All prompts' positions in a row. The first server's tokenizer makes the prompts."""
        server = ServerProcess(self._args.binary, self._args.model, self._folder,
                               *shlex.split(flags), *self._args.flags)
        server.start()
        try:
            if not self.prompts:
                text = self._args.text.read_text(encoding="utf-8")
                self.prompts = make_prompts(server.port, text, self._args.prompts,
                                            self._args.tokens)
            return [position for prompt in self.prompts for position in score(server.port, prompt)]
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--binary", required=True)
    add("--model", type=pathlib.Path, required=True)
    add("--text", type=pathlib.Path, required=True)
    add("--prompts", type=int, default=20)
    add("--tokens", type=parse_range, default=(256, 2048), metavar="SHORTEST:LONGEST")
    add("--reference", default="--dtype fp32 --matmul-kernel fp32", metavar="FLAGS")
    add("--candidate", action="append", required=True, metavar="FLAGS", help="repeatable")
    add("--json", type=pathlib.Path)
    add("flags", nargs="*", help="of every server")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        servers = Servers(args, pathlib.Path(name))
        reference = servers.score(args.reference)
        for flags in args.candidate:
            result = compare(reference, servers.score(flags))
            results.append({"candidate": flags, **result})
            print(f"{flags or '(no flags)'} beside {args.reference}")
            for key, value in result.items():
                shown = f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
                print(f"  {key:<36} {shown}", flush=True)
    if args.json:
        summary = {"model": args.model.name, "reference": args.reference,
                   "prompts": [len(prompt) for prompt in servers.prompts], "results": results}
        args.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(any(result["other_likeliest_beyond_differences"] for result in results))


if __name__ == "__main__":
    main()
