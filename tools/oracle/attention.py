"""One layer's attention over a whole sequence, straight from its definition (float64).

Row p has a local set (its window, and the sinks) and a linear set (every other earlier row):

    none, sum:  o_p = local_p + alpha * linear_p / den_p + conv_p      den_p = 1, or sum_j u_pj
    joint:      o_p = (sum_local e_pj v_j + f sum_linear u_pj v_j)
                      / (sum_local e_pj + f sum_linear u_pj) + conv_p  f = exp(linear_factor)

with u_pj = decay^(groups that j is behind the fold) * phi(q_p).phi(k_j), e the softmax numerators,
and conv_p a causal convolution of v.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

_JOINT_OR_SUM_FEATURE_MAPS = ("relu", "elu1", "hedgehog")
_MIN_DENOMINATOR = 1e-6
_MIN_SQUARED_NORM = 1e-12
_LAPLACE_MEAN = math.sqrt(0.5)
_LAPLACE_DEVIATION = math.sqrt(1 / (4 * math.pi))

_CHOICES = {
    "window": ("group", "sliding"),
    "decay": ("none", "head"),
    "local": ("none", "softmax", "relu2", "laplace"),
    "feature_map": ("none", "identity", "relu", "elu1", "hedgehog"),
    "qk_norm": ("none", "l2"),
    "denominator": ("none", "sum", "joint"),
}


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """What the `linear_attention` block of config.json says of one layer, defaults filled in.
    group_size 0 is softmax attention over everything."""

    group_size: int
    local: str
    feature_map: str
    window: str = "group"
    window_size: int = 0  # 0: group_size
    sinks: int = 0
    decay: str = "none"
    qk_norm: str = "none"
    denominator: str = "none"
    alpha: float | str | None = None  # a number, "learned", or None: 1 (joint has none)
    conv_kernel: int = 0
    feature_size: int = 0  # of hedgehog; 0: two features a dimension of the head

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}: {getattr(self, key)!r} is not one of {choices}")
        if self.window_size == 0:
            object.__setattr__(self, "window_size", self.group_size)
        if self.group_size and self.window == "group" and self.window_size % self.group_size:
            raise ValueError(f"window group with window_size {self.window_size}: not whole groups")
        mapped = self.feature_map in _JOINT_OR_SUM_FEATURE_MAPS
        if self.denominator in ("sum", "joint") and not mapped:
            raise ValueError(f"denominator {self.denominator} with feature_map {self.feature_map}")
        if self.denominator == "joint" and self.local != "softmax":
            raise ValueError(f"denominator joint with local {self.local}")
        if self.denominator == "joint" and self.alpha is not None:
            raise ValueError("denominator joint with alpha")
        softmax_only = ("softmax", "none", "none", 0)
        parts = (self.local, self.feature_map, self.decay, self.conv_kernel)
        if self.group_size == 0 and parts != softmax_only:
            raise ValueError("group_size 0 is softmax attention: no feature_map, decay or conv")
        if self.conv_kernel and self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {self.conv_kernel} is even")
        if self.feature_size and (self.feature_map != "hedgehog" or self.feature_size % 2):
            raise ValueError(f"feature_size {self.feature_size} with {self.feature_map}")

    @classmethod
    def for_layers(cls, block: Mapping[str, Any], num_layers: int) -> tuple[Self, ...]:
        """One for each layer: the block's keys hold for all, but where an entry of its list `layers`
        names the layer. A later entry wins. Layers share what is equal, so that a compiler meets it
        once."""
        common = {key: value for key, value in block.items() if key != "layers"}
        of_layer = [common] * num_layers
        for entry in block.get("layers", ()):
            changes = {key: value for key, value in entry.items() if key != "layers"}
            for layer in entry["layers"]:
                if not 0 <= layer < num_layers:
                    raise ValueError(f"linear_attention.layers: there is no layer {layer}")
                of_layer[layer] = {**of_layer[layer], **changes}
        kinds: dict[Self, Self] = {}
        specs = [cls(**values) for values in of_layer]
        return tuple(kinds.setdefault(spec, spec) for spec in specs)

    def features(self, head_dim: int) -> int:
        """How many a head has; 0 without a linear branch."""
        if self.feature_map == "hedgehog":
            return self.feature_size or 2 * head_dim
        return 0 if self.feature_map == "none" else head_dim

    @property
    def num_taps(self) -> int:
        return self.conv_kernel // 2 + 1 if self.conv_kernel else 0

    @property
    def lag(self) -> int:
        """How many groups behind a row's own group lies the newest group that is outside the window
        of every row of that group."""
        if self.window == "group":
            return self.window_size // self.group_size
        return 1 + -(-(self.window_size - 1) // self.group_size)


@dataclasses.dataclass(frozen=True)
class AttentionParameters:
    """What a layer's attention has learned; what the spec does not use may be None."""

    alpha: float = 1.0
    taps: np.ndarray | None = None  # [heads, taps]: taps[h, t] multiplies v of t rows ago
    feature_map_q: np.ndarray | None = None  # [heads, head_dim, features / 2]
    feature_map_k: np.ndarray | None = None  # [kv_heads, head_dim, features / 2]
    linear_factor: np.ndarray | None = None  # [heads], a logarithm
    decay: np.ndarray | None = None  # [kv_heads], the factor itself, in (0, 1]


def attention(
    spec: AttentionSpec,
    parameters: AttentionParameters,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    """Outputs [n, heads, head_dim] for q [n, heads, head_dim] and k, v [n, kv_heads, head_dim]; q
    and k have been rotated."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    outputs = []
    for head in range(q.shape[1]):
        kv_head = head * k.shape[1] // q.shape[1]
        qkv = (q[:, head], k[:, kv_head], v[:, kv_head])
        outputs.append(_head(spec, parameters, head, kv_head, *qkv))
    return np.stack(outputs, axis=1)


def _head(
    spec: AttentionSpec,
    parameters: AttentionParameters,
    head: int,
    kv_head: int,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    local_set, linear_set = _sets(spec, len(q))
    local = _local_weights(spec, q, k, local_set)
    linear = _linear_weights(spec, parameters, head, kv_head, q, k) * linear_set

    if spec.denominator == "joint":
        weights = local + math.exp(parameters.linear_factor[head]) * linear
        output = weights @ v / weights.sum(axis=1, keepdims=True)
    else:
        if spec.local == "softmax":
            local = local / local.sum(axis=1, keepdims=True)
        if spec.denominator == "sum":
            linear = linear / np.maximum(linear.sum(axis=1, keepdims=True), _MIN_DENOMINATOR)
        output = (local + parameters.alpha * linear) @ v

    for distance in range(spec.num_taps):
        output[distance:] += parameters.taps[head, distance] * v[: len(v) - distance]
    return output


def _sets(spec: AttentionSpec, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The local and the linear set of every row, as masks [n, n]."""
    row, column = np.arange(n)[:, None], np.arange(n)[None, :]
    causal = column <= row
    if spec.group_size == 0:
        return causal, np.zeros_like(causal)
    if spec.window == "sliding":
        near = row - column < spec.window_size
    else:
        near = row // spec.group_size - column // spec.group_size < spec.lag
    local_set = causal & (near | (column < spec.sinks))
    return local_set, causal & ~local_set


def _local_weights(
    spec: AttentionSpec, q: np.ndarray, k: np.ndarray, local_set: np.ndarray
) -> np.ndarray:
    """Weights [n, n], zero outside the local set; for softmax the numerators, with the row's local
    maximum subtracted."""
    if spec.local == "softmax":
        scores = np.where(local_set, q @ k.T / math.sqrt(q.shape[1]), -np.inf)
        return np.exp(scores - scores.max(axis=1, keepdims=True))
    if spec.local == "relu2":
        q, k = _normalised(spec, q), _normalised(spec, k)
        return np.maximum(q @ k.T, 0) ** 2 * local_set
    if spec.local == "laplace":
        scaled = (q @ k.T / spec.group_size - _LAPLACE_MEAN) / (_LAPLACE_DEVIATION * math.sqrt(2))
        return 0.5 * (1 + np.vectorize(math.erf)(scaled)) * local_set
    return np.zeros(local_set.shape)


def _linear_weights(
    spec: AttentionSpec,
    parameters: AttentionParameters,
    head: int,
    kv_head: int,
    q: np.ndarray,
    k: np.ndarray,
) -> np.ndarray:
    """u [n, n], before the linear set's mask."""
    n = len(q)
    if spec.feature_map == "none":
        return np.zeros((n, n))
    q, k = _normalised(spec, q), _normalised(spec, k)
    if spec.feature_map == "hedgehog":
        features_q = _hedgehog(q, parameters.feature_map_q[head])
        features_k = _hedgehog(k, parameters.feature_map_k[kv_head])
    else:
        features_q, features_k = (_elementwise(spec.feature_map, x) for x in (q, k))
    weights = features_q @ features_k.T
    if spec.decay == "head":
        group = np.arange(n) // spec.group_size
        behind = np.maximum(0, group[:, None] - spec.lag - group[None, :])
        weights = weights * parameters.decay[kv_head] ** behind
    return weights


def _normalised(spec: AttentionSpec, x: np.ndarray) -> np.ndarray:
    if spec.qk_norm == "none":
        return x
    return x / np.sqrt(np.maximum((x * x).sum(axis=-1, keepdims=True), _MIN_SQUARED_NORM))


def _elementwise(feature_map: str, x: np.ndarray) -> np.ndarray:
    if feature_map == "relu":
        return np.maximum(x, 0)
    if feature_map == "elu1":
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    return x


def _hedgehog(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    y = x @ np.asarray(weight, np.float64)
    e = np.exp(np.concatenate([y, -y], axis=-1) - np.abs(y).max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
