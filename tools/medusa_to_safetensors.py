#!/usr/bin/env python3
"""Converts medusa_lm_head.pt, as Medusa's authors publish it, to the safetensors file that Treeline
reads: the same tensors by the same names, `{head}.0.linear.weight`, `{head}.0.linear.bias` and,
of heads with an output matrix of their own, `{head}.1.weight`.

    tools/medusa_to_safetensors.py medusa_lm_head.pt model/medusa_lm_head.safetensors

Needs PyTorch.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import torch

import safetensors_io


def convert(source: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Writes `target`; the tensors' names. Only tensors are unpickled, never code."""
    stored = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {name: to_array(tensor) for name, tensor in stored.items()}
    safetensors_io.save(target, tensors, {"format": "pt"})
    return sorted(tensors)


def to_array(tensor: torch.Tensor):
    if tensor.dtype == torch.bfloat16:
        return safetensors_io.to_bf16(tensor.float().numpy())
    return tensor.contiguous().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    args = parser.parse_args()
    if not args.source.exists():
        sys.exit(f"{args.source}: no such file")
    print(f"{args.target}: {', '.join(convert(args.source, args.target))}")


if __name__ == "__main__":
    main()
