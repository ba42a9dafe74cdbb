#!/usr/bin/env python3
"""Runs `treeline bench` and llama.cpp's llama-bench side by side and prints one table.

Machines drift, so the two run in turns, round after round, and medians are compared: quote the
ratios. llama-bench is run with flash attention off and on, and the better one counts.

  tools/compare_llama_cpp.py --treeline build/treeline --llama-bench PATH/llama-bench \\
      --linearized section8.json --softmax softmax.json \\
      --gguf bf16=model-BF16.gguf --gguf int8=model-Q8_0.gguf --gguf int4=model-Q4_1.gguf

--linearized and --softmax are config.json files of one shape; their models get random weights.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys

# (who, weights, work, context) -> tokens a second, one entry a round.
Results = dict[tuple[str, str, str, int], list[float]]


def run(command: list[str]) -> str:
    print("+", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


def run_treeline(args: argparse.Namespace, config: str, weights: str,
                 context: int) -> dict[str, float]:
    output = run([args.treeline, "bench", "--random-weights", config, "--dtype", weights,
                  "--threads", str(args.threads), "--context", str(context),
                  "--prompt", str(args.prompt), "--output", str(args.output),
                  "--repeats", str(args.repeats), "--json", "-"])
    return {r["work"]: r["tokens_per_second"]["median"] for r in json.loads(output)["results"]}


def run_llama(args: argparse.Namespace, gguf: str, context: int) -> dict[str, float]:
    """The better of flash attention off and on, where both are tried."""
    output = run([args.llama_bench, "-m", gguf, "-t", str(args.threads), "-d", str(context),
                  "-p", str(args.prompt), "-n", str(args.output), "-r", str(args.repeats),
                  "-fa", args.flash_attention, "-o", "json"])
    best: dict[str, float] = {}
    for test in json.loads(output):
        work = "prefill" if test["n_prompt"] > 0 else "decode"
        best[work] = max(best.get(work, 0), statistics.median(test["samples_ts"]))
    return best


def print_table(results: Results, args: argparse.Namespace) -> None:
    print("| work | context | weights | llama.cpp | softmax | | linearized | |")
    print("|---|---|---|---|---|---|---|---|")
    for work in ("decode", "prefill"):
        for context in args.context:
            for weights in args.ggufs:
                rates = {who: results[who, weights, work, context]
                         for who in ("llama.cpp", "softmax", "linearized")}
                cells = [f"{statistics.median(rates['llama.cpp']):.0f}"]
                for who in ("softmax", "linearized"):
                    ratio = statistics.median(
                        ours / theirs for ours, theirs in zip(rates[who], rates["llama.cpp"]))
                    cells += [f"{statistics.median(rates[who]):.0f}", f"{ratio:.2f}x"]
                print(f"| {work} | {context} | {weights} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treeline", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--linearized", required=True, metavar="CONFIG")
    parser.add_argument("--softmax", required=True, metavar="CONFIG")
    parser.add_argument("--gguf", action="append", required=True, metavar="DTYPE=FILE",
                        help="llama.cpp's model beside our --dtype DTYPE")
    parser.add_argument("--context", type=lambda s: [int(c) for c in s.split(",")],
                        default=[0, 2048, 8192])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2, help="within a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flash-attention", default="0,1", help="llama-bench's -fa")
    args = parser.parse_args()
    args.ggufs = dict(pair.split("=", 1) for pair in args.gguf)

    results: Results = collections.defaultdict(list)
    for round_index in range(args.rounds):
        for context in args.context:
            for weights, gguf in args.ggufs.items():
                measured = {
                    "linearized": run_treeline(args, args.linearized, weights, context),
                    "llama.cpp": run_llama(args, gguf, context),
                    "softmax": run_treeline(args, args.softmax, weights, context),
                }
                for who, rates in measured.items():
                    for work, rate in rates.items():
                        results[who, weights, work, context].append(rate)
                print(f"round {round_index + 1}: {context} {weights} {measured}", file=sys.stderr,
                      flush=True)
    print_table(results, args)


if __name__ == "__main__":
    main()
