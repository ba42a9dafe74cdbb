"""Rotary positions as Hugging Face transformers 5 defines them, in float64.

"dynamic" scaling is computed for one pass over a sequence of `max_context` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def frequencies(config: Mapping[str, Any], max_context: int = 0) -> tuple[np.ndarray, float]:
    """Radians per position for each pair of dimensions, and what rotated vectors are scaled by."""
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    trained = config["max_position_embeddings"]
    exponents = np.arange(0, dim, 2) / dim
    if kind == "default":
        return theta**-exponents, 1.0
    if kind == "linear":
        return theta**-exponents / rope["factor"], 1.0
    if kind == "dynamic":
        length = max(max_context, trained)
        growth = rope["factor"] * length / trained - (rope["factor"] - 1)
        return (theta * growth ** (dim / (dim - 2))) ** -exponents, 1.0
    original = config.get(
        "original_max_position_embeddings", rope.get("original_max_position_embeddings", trained)
    )
    if kind == "llama3":
        return _llama3(theta**-exponents, rope, original), 1.0
    if kind == "yarn":
        factor = rope.get("factor") or trained / original
        return _yarn(theta, dim, rope, original, factor), _yarn_scale(rope, factor)
    raise ValueError(f"rope_type {kind!r}")


def _llama3(plain: np.ndarray, rope: Mapping[str, Any], original: int) -> np.ndarray:
    wavelengths = 2 * np.pi / plain
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * plain / rope["factor"] + smooth * plain
    short, long = wavelengths < original / high, wavelengths > original / low
    return np.where(short, plain, np.where(long, plain / rope["factor"], blended))


def _yarn(
    theta: float, dim: int, rope: Mapping[str, Any], original: int, factor: float
) -> np.ndarray:
    def turning(rotations: float) -> float:
        """The dimension that turns so often over the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = turning(rope.get("beta_fast") or 32), turning(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    plain = theta ** -(np.arange(0, dim, 2) / dim)
    return plain / factor * ramp + plain * (1 - ramp)


def _yarn_scale(rope: Mapping[str, Any], factor: float) -> float:
    def temperature(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return temperature(rope["mscale"]) / temperature(rope["mscale_all_dim"])
    return temperature(1.0)
