#!/usr/bin/env python3
"""Writes a tiny linearized model with random weights: groups of 128 rows, a convolution, a state.

It costs microseconds a token, so that load tests measure the server and not the model, and takes
every way through the engine that a large one takes.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
from oracle import checkpoint  # noqa: E402  (tools/ is not a package)

VOCAB_SIZE = checkpoint.VOCAB_SIZE
MAX_CONTEXT = 4096

SHAPE = checkpoint.Shape(
    hidden_size=64,
    num_layers=2,
    heads=4,
    kv_heads=2,
    dtype="bfloat16",
    seed=1,
    linear_attention={
        "group_size": 128,
        "window": "group",
        "local": "relu2",
        "feature_map": "identity",
        "qk_norm": "l2",
        "denominator": "none",
        "alpha": "learned",
        "conv_kernel": 63,
    },
    extra={"max_position_embeddings": MAX_CONTEXT},
)


def make(folder: pathlib.Path) -> pathlib.Path:
    """Writes the model's folder, and returns it."""
    checkpoint.write(folder, SHAPE)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    make(parser.parse_args().folder)


if __name__ == "__main__":
    main()
