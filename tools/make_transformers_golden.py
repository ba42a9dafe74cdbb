#!/usr/bin/env python3
"""Writes tests/testdata/default_model/transformers_golden.json: what Hugging Face transformers
computes for the default model in float32 with eager softmax attention.

Needs torch and transformers (made with 1.13 and 4.46) and the folder that fetch_default_model.py
writes. Per prompt of prompts.json: the log-probability of every token after the first, those of 64
fixed token ids at up to 64 positions, and the greedy continuation. The run stops where a greedy
choice is so close that two correct implementations could differ.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import tokenizers
import torch
import transformers

import fetch_default_model

_FOLDER = pathlib.Path(__file__).parent.parent / "tests/testdata/default_model"
_NUM_IDS = 64
_NUM_POSITIONS = 64
_CONTINUATION = 64
_MIN_MARGIN = 2e-3  # between the two best logits of a greedy choice
_DECIMALS = 5


def fixed_ids(vocab_size: int) -> list[int]:
    """Ids from common to rare: BPE gives common tokens small ids, so the steps grow."""
    last = vocab_size - 1
    return [round(last * (i / (_NUM_IDS - 1)) ** 2) for i in range(_NUM_IDS)]


def spread_positions(length: int) -> list[int]:
    """Up to 64 positions, the first and the last among them."""
    count = min(length, _NUM_POSITIONS)
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def continue_greedily(
    model: transformers.LlamaForCausalLM, tokens: list[int]
) -> tuple[list[int], float]:
    """The continuation and its smallest margin."""
    continuation: list[int] = []
    margin = float("inf")
    step, cache = torch.tensor([tokens]), transformers.DynamicCache()
    for _ in range(_CONTINUATION):
        output = model(step, past_key_values=cache, use_cache=True)
        best = torch.topk(output.logits[0, -1], 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        continuation.append(int(best.indices[0]))
        step = best.indices[:1].reshape(1, 1)
    return continuation, margin


def evaluate(
    model: transformers.LlamaForCausalLM, name: str, tokens: list[int], ids: list[int]
) -> dict[str, Any]:
    logits = model(torch.tensor([tokens])).logits[0]
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    chosen = log_probabilities[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    positions = spread_positions(len(tokens))
    continuation, margin = continue_greedily(model, tokens)
    print(f"{name}: {len(tokens)} tokens, smallest greedy margin {margin:.4f}")
    if margin < _MIN_MARGIN:
        raise SystemExit(f"{name}: a greedy choice is too close: change the prompt")
    if model.config.eos_token_id in continuation:
        raise SystemExit(f"{name}: the continuation ends early: change the prompt")
    return {
        "name": name,
        "tokens": tokens,
        "logprobs": rounded(chosen),
        "positions": positions,
        "id_logprobs": [rounded(log_probabilities[position, ids]) for position in positions],
        "greedy": continuation,
        "greedy_min_margin": round(margin, _DECIMALS),
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [round(value, _DECIMALS) for value in values.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=pathlib.Path, default=fetch_default_model.default_output())
    parser.add_argument("--output", type=pathlib.Path, default=_FOLDER / "transformers_golden.json")
    args = parser.parse_args()

    tokenizer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, torch_dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = fixed_ids(model.config.vocab_size)
    prompts = json.loads((_FOLDER / "prompts.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        evaluated = [
            evaluate(model, prompt["name"], tokenizer.encode(prompt["text"]).ids, ids)
            for prompt in prompts
        ]
    golden = {
        "model": fetch_default_model.MODEL_NAME,
        "model_sha256": fetch_default_model.sha256(args.model / "model.safetensors"),
        "versions": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "dtype": "float32",
        "attention": "eager",
        "ids": ids,
        "prompts": evaluated,
    }
    args.output.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
