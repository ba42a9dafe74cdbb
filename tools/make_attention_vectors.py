#!/usr/bin/env python3
"""Writes tests/testdata/attention/vectors.safetensors: inputs and outputs of one attention layer.

Cases named after the two reference scripts (--reference DIR holds augmented_attention.py and
windowed_attention.py) carry the outputs that those scripts' definitions give, and stop the run
where oracle/attention.py differs. The others, which combine what no reference script covers, carry
the oracle's outputs.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import pathlib
import sys
import zlib
from typing import Any

import numpy as np

import safetensors_io
from oracle.attention import AttentionParameters, AttentionSpec, attention

_DEFAULT_OUTPUT = (
    pathlib.Path(__file__).parent.parent / "tests/testdata/attention/vectors.safetensors"
)
_TOLERANCE = 1e-12  # of the largest output, between the oracle and a reference script


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of attention. `source` names the script whose definition gives the output."""

    name: str
    source: str
    length: int
    heads: int
    kv_heads: int
    linear_attention: dict[str, Any]
    head_dim: int = 8
    score_scale: float = 1.0  # of q and k, so that nonlinear local weights do not all look alike


_AUGMENTED = "augmented_attention.py"
_WINDOWED = "windowed_attention.py"
_ORACLE = "oracle"


def _spec(group_size: int, local: str, feature_map: str, **others: Any) -> dict[str, Any]:
    return {"group_size": group_size, "local": local, "feature_map": feature_map, **others}


def _windowed(group_size: int, window: str, denominator: str, **others: Any) -> dict[str, Any]:
    shared = {"window": window, "denominator": denominator, "decay": "head"}
    return _spec(group_size, "softmax", "hedgehog", **shared, **others)


CASES = (
    # The released LLaMA form; its taps reach over one group (4 taps) or over several (8 taps).
    Case("released", _AUGMENTED, 37, 4, 2,
         _spec(8, "relu2", "identity", qk_norm="l2", alpha=0.7, conv_kernel=7)),
    Case("released_long_taps", _AUGMENTED, 23, 2, 2,
         _spec(3, "relu2", "identity", qk_norm="l2", alpha=-0.4, conv_kernel=15)),
    Case("softmax_identity", _AUGMENTED, 33, 2, 1,
         _spec(8, "softmax", "identity", qk_norm="l2", alpha=0.5, conv_kernel=5)),
    Case("softmax_elu1_sum", _AUGMENTED, 33, 4, 2,
         _spec(8, "softmax", "elu1", denominator="sum", alpha=0.6, conv_kernel=3)),
    Case("softmax_relu_sum", _AUGMENTED, 29, 2, 1,
         _spec(4, "softmax", "relu", denominator="sum")),
    Case("relu2_relu_sum", _AUGMENTED, 29, 2, 2,
         _spec(4, "relu2", "relu", denominator="sum", alpha=0.8), score_scale=0.5),
    Case("laplace_identity", _AUGMENTED, 33, 2, 1,
         _spec(8, "laplace", "identity", qk_norm="l2", alpha=0.3, conv_kernel=7), score_scale=1.7),
    Case("group_of_one", _AUGMENTED, 11, 2, 2,
         _spec(1, "relu2", "identity", qk_norm="l2", conv_kernel=1)),
    # Windows, sinks, decay, one joint denominator.
    Case("sliding_joint", _WINDOWED, 45, 2, 1,
         _windowed(8, "sliding", "joint", window_size=8, sinks=4)),
    Case("sliding_joint_wide", _WINDOWED, 45, 2, 2,
         _windowed(4, "sliding", "joint", window_size=9, sinks=2)),
    Case("sliding_joint_narrow", _WINDOWED, 40, 2, 1,
         _windowed(8, "sliding", "joint", window_size=3, sinks=1)),
    Case("sliding_joint_one", _WINDOWED, 21, 2, 1,
         _windowed(3, "sliding", "joint", window_size=1)),
    Case("group_joint", _WINDOWED, 37, 2, 1,
         _windowed(8, "group", "joint", sinks=3)),
    Case("sliding_none", _WINDOWED, 37, 2, 1,
         _windowed(8, "sliding", "none", window_size=12, sinks=4, alpha=0.9)),
    Case("group_none_many_sinks", _WINDOWED, 30, 2, 1,
         _windowed(4, "group", "none", sinks=11, alpha=0.5)),
    # What neither script covers.
    Case("groups_joint", _ORACLE, 53, 4, 2,
         _windowed(8, "group", "joint", window_size=16, sinks=3, conv_kernel=7)),
    Case("fewer_features", _ORACLE, 53, 4, 2,
         _windowed(8, "group", "joint", window_size=16, sinks=3, conv_kernel=7, feature_size=6)),
    Case("two_features", _ORACLE, 33, 2, 1,
         _windowed(4, "sliding", "sum", window_size=6, alpha=0.7, feature_size=2)),
    Case("groups_only", _ORACLE, 53, 4, 2,
         _spec(4, "softmax", "none", window_size=24, sinks=2, conv_kernel=5)),
    Case("groups_relu2", _ORACLE, 33, 2, 1,
         _spec(4, "relu2", "relu", denominator="sum", qk_norm="l2", window_size=12, decay="head",
               alpha=0.6)),
    Case("softmax_attention", _ORACLE, 25, 4, 2, _spec(0, "softmax", "none")),
    Case("full", _ORACLE, 45, 4, 2,
         _windowed(8, "sliding", "joint", window_size=8, sinks=4, conv_kernel=7)),
    Case("full_wide", _ORACLE, 45, 3, 1,
         _windowed(4, "sliding", "joint", window_size=11, sinks=3, conv_kernel=31, qk_norm="l2")),
    Case("elu1_joint", _ORACLE, 33, 2, 1,
         _spec(8, "softmax", "elu1", denominator="joint", window="sliding", window_size=5,
               sinks=2)),
    Case("relu_joint", _ORACLE, 33, 2, 1,
         _spec(4, "softmax", "relu", denominator="joint", decay="head", qk_norm="l2")),
    Case("hedgehog_sum", _ORACLE, 33, 2, 1,
         _windowed(8, "sliding", "sum", window_size=12, sinks=2, alpha=0.7, conv_kernel=3)),
    Case("relu2_sliding", _ORACLE, 33, 4, 2,
         _spec(8, "relu2", "identity", qk_norm="l2", window="sliding", window_size=6, sinks=2,
               decay="head", alpha=0.4, conv_kernel=7)),
    Case("laplace_sliding", _ORACLE, 33, 2, 1,
         _spec(8, "laplace", "elu1", denominator="sum", window="sliding", window_size=9, sinks=1,
               decay="head", alpha=0.5), score_scale=1.7),
    Case("window_only", _ORACLE, 33, 2, 1,
         _spec(8, "softmax", "none", window="sliding", window_size=6, sinks=2, conv_kernel=5)),
    Case("no_local", _ORACLE, 33, 2, 1,
         _spec(8, "none", "relu", denominator="sum", window="sliding", window_size=4, sinks=2)),
    Case("no_local_identity", _ORACLE, 29, 2, 2,
         _spec(4, "none", "identity", qk_norm="l2", alpha=0.6, conv_kernel=3)),
)  # fmt: skip


def draw_inputs(case: Case) -> dict[str, np.ndarray]:
    """The tensors of a case, float32 so that what is written is what was computed with."""
    spec = AttentionSpec(**case.linear_attention)
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    n, h, kv, d = case.length, case.heads, case.kv_heads, case.head_dim
    tensors = {
        "q": rng.standard_normal((n, h, d)) * case.score_scale,
        "k": rng.standard_normal((n, kv, d)) * case.score_scale,
        "v": rng.standard_normal((n, kv, d)),
    }
    if spec.feature_map == "hedgehog":
        half = spec.features(d) // 2
        tensors["feature_map_q"] = rng.standard_normal((h, d, half)) * 0.5
        tensors["feature_map_k"] = rng.standard_normal((kv, d, half)) * 0.5
    if spec.denominator == "joint":
        tensors["linear_factor"] = rng.uniform(-1.5, 1.0, h)
    if spec.decay == "head":
        tensors["decay"] = rng.uniform(0.5, 0.95, kv)
    if spec.conv_kernel:
        tensors["conv"] = rng.standard_normal((h, spec.num_taps)) * 0.4
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def oracle_output(case: Case, tensors: dict[str, np.ndarray]) -> np.ndarray:
    spec = AttentionSpec(**case.linear_attention)
    parameters = AttentionParameters(
        alpha=case.linear_attention.get("alpha", 1.0),
        taps=tensors.get("conv"),
        feature_map_q=tensors.get("feature_map_q"),
        feature_map_k=tensors.get("feature_map_k"),
        linear_factor=tensors.get("linear_factor"),
        decay=None if "decay" not in tensors else tensors["decay"].astype(np.float64),
    )
    return attention(spec, parameters, tensors["q"], tensors["k"], tensors["v"])


def augmented_output(script: Any, case: Case, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The full form of augmented_attention.py, on [heads, n, head_dim] with k, v repeated."""
    spec = AttentionSpec(**case.linear_attention)
    repeat = case.heads // case.kv_heads
    q, k, v = (tensors[name].astype(np.float64).swapaxes(0, 1) for name in "qkv")
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    seen_q, seen_k = (script.l2n(q), script.l2n(k)) if spec.qk_norm == "l2" else (q, k)
    local_q, local_k = (seen_q, seen_k) if spec.local == "relu2" else (q, k)
    local_scale = {
        "softmax": 1 / math.sqrt(case.head_dim),
        "relu2": 1.0,
        "laplace": 1 / spec.group_size,
    }
    taps = tensors.get("conv", np.zeros((case.heads, 1))).astype(np.float64)
    reference = script.Spec(
        spec.group_size,
        taps.shape[1],
        kind=spec.local,
        phi={"identity": "id"}.get(spec.feature_map, spec.feature_map),
        denom=spec.denominator == "sum",
        alpha=case.linear_attention.get("alpha", 1.0),
        lscale=local_scale[spec.local],
    )
    return script.full_form(reference, local_q, local_k, seen_q, seen_k, v, taps).swapaxes(0, 1)


def windowed_output(script: Any, case: Case, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The definition of windowed_attention.py, one head at a time."""
    spec = AttentionSpec(**case.linear_attention)
    repeat = case.heads // case.kv_heads
    outputs = []
    for head in range(case.heads):
        kv_head = head // repeat
        joint = spec.denominator == "joint"
        factor = math.exp(tensors["linear_factor"][head]) if joint else spec.alpha
        reference = script.Spec(
            spec.group_size,
            spec.window_size,
            spec.sinks,
            float(tensors["decay"][kv_head]),
            factor,
            window=spec.window,
            joint=joint,
            d=case.head_dim,
            rng=np.random.default_rng(0),
        )
        reference.wq = tensors["feature_map_q"][head].astype(np.float64)
        reference.wk = tensors["feature_map_k"][kv_head].astype(np.float64)
        q, k, v = (
            tensors[name][:, index].astype(np.float64)
            for name, index in (("q", head), ("k", kv_head), ("v", kv_head))
        )
        outputs.append(script.definition(reference, q, k, v))
    return np.stack(outputs, axis=1)


def expected_output(
    case: Case, tensors: dict[str, np.ndarray], scripts: dict[str, Any]
) -> np.ndarray:
    ours = oracle_output(case, tensors)
    if case.source == _ORACLE:
        return ours
    evaluate = augmented_output if case.source == _AUGMENTED else windowed_output
    theirs = evaluate(scripts[case.source], case, tensors)
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if difference > _TOLERANCE:
        raise SystemExit(f"{case.name}: the oracle differs from {case.source} by {difference:.1e}")
    return theirs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=pathlib.Path, default=_DEFAULT_OUTPUT)
    args = parser.parse_args()
    sys.path.append(str(args.reference))
    scripts = {
        name: importlib.import_module(name.removesuffix(".py")) for name in (_AUGMENTED, _WINDOWED)
    }

    stored: dict[str, np.ndarray] = {}
    described = []
    for case in CASES:
        tensors = draw_inputs(case)
        tensors["out"] = expected_output(case, tensors, scripts).astype(np.float32)
        stored.update({f"{case.name}.{name}": tensor for name, tensor in tensors.items()})
        described.append(
            {
                "name": case.name,
                "source": case.source,
                "length": case.length,
                "heads": case.heads,
                "kv_heads": case.kv_heads,
                "head_dim": case.head_dim,
                "linear_attention": case.linear_attention,
            }
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    safetensors_io.save(args.output, stored, {"cases": json.dumps(described)})
    print(f"{args.output}: {len(CASES)} cases, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
