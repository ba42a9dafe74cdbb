#!/usr/bin/env python3
"""Writes tests/testdata/rope/transformers_golden.json: what Hugging Face transformers computes for
rotary positions of every kind of scaling, at positions up to 100,000.

Needs torch and transformers 5 (made with 1.13 and 5.23). Per case: the keys of config.json, the
context it is computed for, the inverse frequencies and the scale that transformers derives, and
the scaled cosines and sines of some positions, all in float32 as its models compute them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import torch
import transformers
from transformers import modeling_rope_utils

# transformers 5 looks away from torch before 2.4; these functions need nothing newer.
modeling_rope_utils.torch = torch

_OUTPUT = pathlib.Path(__file__).parent.parent / "tests/testdata/rope/transformers_golden.json"
_POSITIONS = [0, 1, 2, 77, 4095, 8191, 32768, 65537, 99999, 100000]
_MAX_CONTEXT = 100_001

# Keys of config.json beside the shape, as published models have them where they do.
_CASES: dict[str, dict[str, Any]] = {
    # Divided by 1, linear scaling is none.
    "unscaled": {
        "rope_theta": 100000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "linear", "factor": 1.0},
    },
    "linear": {
        "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "linear", "factor": 32.0},
    },
    "dynamic": {
        "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "dynamic_within_its_context": {
        "rope_theta": 10000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"type": "dynamic", "factor": 8.0},
    },
    "llama3": {
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "head_dim": 128,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama3_in_rope_parameters": {
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    },
    "yarn": {
        "rope_theta": 1000000.0, "max_position_embeddings": 131072,
        "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
        },
    },
    "yarn_without_original_context": {
        "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0},
    },
    "yarn_with_every_key": {
        "rope_theta": 10000.0, "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
            "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "mscale": 1.0,
            "mscale_all_dim": 0.707,
        },
    },
    "yarn_with_attention_factor": {
        "rope_theta": 10000.0, "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192,
            "attention_factor": 0.75,
        },
    },
}  # fmt: skip
_SHAPE = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}


def evaluate(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    keys = {**_SHAPE, **keys}
    config = transformers.LlamaConfig(**json.loads(json.dumps(keys)))  # It edits what it is given.
    compute = modeling_rope_utils.ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]]
    frequencies, scale = compute(config, torch.device("cpu"), seq_len=_MAX_CONTEXT)
    # As LlamaRotaryEmbedding.forward does.
    angles = torch.tensor(_POSITIONS)[:, None].float() * frequencies[None, :].float()
    return {
        "name": name,
        "config": keys,
        "inverse_frequencies": floats(frequencies),
        "scale": float(scale),
        "cos": [floats(row) for row in angles.cos() * scale],
        "sin": [floats(row) for row in angles.sin() * scale],
    }


def floats(values: torch.Tensor) -> list[float]:
    """Shortest decimals that are these float32 numbers again."""
    return [float(str(value)) for value in values.float().numpy()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=_OUTPUT)
    args = parser.parse_args()
    golden = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "positions": _POSITIONS,
        "max_context": _MAX_CONTEXT,
        "cases": [evaluate(name, keys) for name, keys in _CASES.items()],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
