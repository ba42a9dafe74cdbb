"""oracle/attention.py against the checked-in vectors of the reference scripts, and against a second
evaluation that goes row by row with scalar loops."""

from __future__ import annotations

import json
import math
import pathlib
import unittest
from typing import Any

import numpy as np

import safetensors_io
from oracle.attention import AttentionParameters, AttentionSpec, attention

_VECTORS = (
    pathlib.Path(__file__).parents[2] / "tests" / "testdata" / "attention" / "vectors.safetensors"
)
_STORAGE_ERROR = 2e-7  # the expected outputs are float32


def _load_cases() -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    tensors, metadata = safetensors_io.load(_VECTORS)
    cases = []
    for case in json.loads(metadata["cases"]):
        prefix = case["name"] + "."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        cases.append((case, own))
    return cases


def _parameters(case: dict[str, Any], tensors: dict[str, np.ndarray]) -> AttentionParameters:
    return AttentionParameters(
        alpha=case["linear_attention"].get("alpha", 1.0),
        taps=tensors.get("conv"),
        feature_map_q=tensors.get("feature_map_q"),
        feature_map_k=tensors.get("feature_map_k"),
        linear_factor=tensors.get("linear_factor"),
        decay=tensors["decay"].astype(np.float64) if "decay" in tensors else None,
    )


def _features(spec: AttentionSpec, x: np.ndarray, weight: np.ndarray | None) -> list[float]:
    if spec.feature_map == "hedgehog":
        y = [float(x @ column) for column in weight.T.astype(np.float64)]
        exponentials = [math.exp(value) for value in y + [-value for value in y]]
        return [value / sum(exponentials) for value in exponentials]
    maps = {
        "identity": lambda value: value,
        "relu": lambda value: max(value, 0.0),
        "elu1": lambda value: value + 1 if value > 0 else math.exp(value),
    }
    return [maps[spec.feature_map](float(value)) for value in x]


def _row(
    spec: AttentionSpec,
    own: AttentionParameters,
    heads: tuple[int, int],
    p: int,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    """Output of row p of query head heads[0] over KV head heads[1]."""
    head, kv_head = heads
    g, d = spec.group_size, q.shape[1]

    def unit(x: np.ndarray) -> np.ndarray:
        return x / math.sqrt(float(x @ x)) if spec.qk_norm == "l2" else x

    def is_local(j: int) -> bool:
        if g == 0 or j < spec.sinks:
            return True
        if spec.window == "sliding":
            return p - j < spec.window_size
        return j >= (p // g + 1) * g - spec.window_size

    local, linear = {}, {}
    for j in range(p + 1):
        score = float(q[p] @ k[j])
        if is_local(j):
            if spec.local == "softmax":
                local[j] = score / math.sqrt(d)
            elif spec.local == "relu2":
                local[j] = max(float(unit(q[p]) @ unit(k[j])), 0.0) ** 2
            elif spec.local == "laplace":
                z = (score / g - math.sqrt(0.5)) / (math.sqrt(1 / (4 * math.pi)) * math.sqrt(2))
                local[j] = 0.5 * (1 + math.erf(z))
        elif spec.feature_map != "none":
            weight_q = None if own.feature_map_q is None else own.feature_map_q[head]
            weight_k = None if own.feature_map_k is None else own.feature_map_k[kv_head]
            f = _features(spec, unit(q[p]), weight_q)
            h = _features(spec, unit(k[j]), weight_k)
            linear[j] = sum(a * b for a, b in zip(f, h, strict=True))
            if spec.decay == "head":
                linear[j] *= own.decay[kv_head] ** max(0, p // g - spec.lag - j // g)
    if spec.local == "softmax":
        largest = max(local.values())
        local = {j: math.exp(score - largest) for j, score in local.items()}

    if spec.denominator == "joint":
        f = math.exp(own.linear_factor[head])
        total = sum(local.values()) + f * sum(linear.values())
        weights = {j: w / total for j, w in local.items()}
        weights |= {j: f * w / total for j, w in linear.items()}
    else:
        local_total = sum(local.values()) if spec.local == "softmax" else 1.0
        linear_total = max(sum(linear.values()), 1e-6) if spec.denominator == "sum" else 1.0
        weights = {j: w / local_total for j, w in local.items()}
        weights |= {j: own.alpha * w / linear_total for j, w in linear.items()}
    output = sum((w * v[j] for j, w in weights.items()), np.zeros(d))
    for distance in range(min(spec.num_taps, p + 1)):
        output = output + own.taps[head, distance] * v[p - distance]
    return output


class AttentionTest(unittest.TestCase):
    def test_equals_reference_scripts(self) -> None:
        compared = 0
        for case, tensors in _load_cases():
            if case["source"] == "oracle":
                continue
            with self.subTest(case["name"]):
                self._expect_close(case, tensors, tensors["out"], _STORAGE_ERROR)
                compared += 1
        self.assertGreaterEqual(compared, 10)

    def test_equals_row_by_row_evaluation(self) -> None:
        for case, tensors in _load_cases():
            spec = AttentionSpec(**case["linear_attention"])
            own = _parameters(case, tensors)
            q, k, v = (tensors[name].astype(np.float64) for name in "qkv")
            expected = np.empty(q.shape)
            for head in range(q.shape[1]):
                kv_head = head // (q.shape[1] // k.shape[1])
                for p in range(len(q)):
                    expected[p, head] = _row(
                        spec, own, (head, kv_head), p, q[:, head], k[:, kv_head], v[:, kv_head]
                    )
            with self.subTest(case["name"]):
                self._expect_close(case, tensors, expected, 1e-12)

    def test_rejects_illegal_combinations(self) -> None:
        base = {"group_size": 8, "local": "softmax", "feature_map": "hedgehog"}
        for change in (
            {"denominator": "joint", "local": "relu2"},
            {"denominator": "joint", "feature_map": "identity"},
            {"denominator": "joint", "alpha": 0.5},
            {"denominator": "sum", "feature_map": "identity"},
            {"group_size": 0},
            {"group_size": 0, "feature_map": "none", "conv_kernel": 3},
            {"conv_kernel": 4},
            {"local": "relu"},
            {"feature_size": 5},
            {"feature_size": 6, "feature_map": "elu1"},
        ):
            with self.subTest(str(change)), self.assertRaises(ValueError):
                AttentionSpec(**{**base, **change})

    def test_layers_may_differ(self) -> None:
        entries = [{"layers": [1, 3], "window_size": 16}, {"layers": [3], "feature_map": "none"}]
        block = {"group_size": 8, "local": "softmax", "feature_map": "relu", "layers": entries}
        specs = AttentionSpec.for_layers(block, 4)
        self.assertEqual([spec.window_size for spec in specs], [8, 16, 8, 16])
        self.assertEqual([spec.feature_map for spec in specs], ["relu", "relu", "relu", "none"])
        with self.assertRaisesRegex(ValueError, "there is no layer 3"):
            AttentionSpec.for_layers(block, 3)

    def _expect_close(
        self,
        case: dict[str, Any],
        tensors: dict[str, np.ndarray],
        expected: np.ndarray,
        tolerance: float,
    ) -> None:
        spec = AttentionSpec(**case["linear_attention"])
        actual = attention(
            spec, _parameters(case, tensors), tensors["q"], tensors["k"], tensors["v"]
        )
        error = np.abs(actual - expected).max() / np.abs(expected).max()
        self.assertLessEqual(error, tolerance)


if __name__ == "__main__":
    unittest.main()
