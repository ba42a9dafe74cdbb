#!/usr/bin/env python3
"""Writes small random checkpoints and what a float64 model (oracle/model.py) predicts with them.

Each folder is a complete Hugging Face model and holds oracle.json: per prompt the token ids, the
log-probability of every token after the first, and the distribution after the last; where there are
Medusa heads, their likeliest guesses after the last. The run stops
where a part of the attention (convolution, linear branch, sinks, decay, ...) makes no difference to
the predictions: a test against such a checkpoint would not notice its absence.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np

import safetensors_io
from oracle import checkpoint, model
from oracle.attention import AttentionParameters, AttentionSpec

_DEFAULT_OUTPUT = pathlib.Path(__file__).parent.parent / "tests/testdata/checkpoints"
_PROMPT_LENGTHS = (1, 2, 7, 64, 65, 129, 1000)
_MIN_EFFECT = 0.01  # of every part on some log-probability
_DECIMALS = 6

_RELEASED = {
    "window": "group",
    "local": "relu2",
    "feature_map": "identity",
    "qk_norm": "l2",
    "denominator": "none",
    "alpha": "learned",
}
_WINDOWED = {
    "window": "sliding",
    "local": "softmax",
    "feature_map": "hedgehog",
    "denominator": "joint",
    "decay": "head",
}

_LOCAL_ONLY = {"feature_map": "none", "feature_size": 0, "denominator": "none", "decay": "none"}

CHECKPOINTS = {
    "softmax": checkpoint.Shape(
        48, 2, heads=6, kv_heads=2, linear_attention=None, dtype="bfloat16", seed=1
    ),
    "released_mha": checkpoint.Shape(
        48, 2, heads=6, kv_heads=6, released=True, tied=False, seed=2,
        linear_attention={"group_size": 8, **_RELEASED, "conv_kernel": 7},
    ),
    # The convolution's tail (7 rows) is longer than a group.
    "released_gqa": checkpoint.Shape(
        64, 2, heads=4, kv_heads=2, released=True, tied=False, dtype="bfloat16", seed=3,
        medusa_heads=2,
        linear_attention={"group_size": 4, **_RELEASED, "conv_kernel": 15},
    ),
    "window_equal": checkpoint.Shape(
        48, 3, heads=3, kv_heads=1, seed=4, medusa_heads=2, medusa_heads_see_drawn_token=True,
        linear_attention={
            "group_size": 8, "window_size": 8, "sinks": 4, **_WINDOWED, "conv_kernel": 7,
        },
    ),
    "window_wider": checkpoint.Shape(
        48, 2, heads=6, kv_heads=2, dtype="bfloat16", seed=5,
        linear_attention={
            "group_size": 8, "window_size": 12, "sinks": 2, **_WINDOWED, "conv_kernel": 15,
        },
    ),
    "window_narrower": checkpoint.Shape(
        48, 2, heads=6, kv_heads=3, dtype="bfloat16", seed=6,
        linear_attention={
            "group_size": 16, "window_size": 5, "sinks": 1, **_WINDOWED, "conv_kernel": 3,
        },
    ),
    # One of each kind of scaling, with positions far past the context that is scaled.
    "llama3_biases": checkpoint.Shape(
        48, 2, heads=4, kv_heads=2, linear_attention=None, dtype="bfloat16", seed=7,
        explicit_head_dim=16,
        rope_scaling={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
        extra={"attention_bias": True, "mlp_bias": True},
    ),
    "qwen2_yarn": checkpoint.Shape(
        48, 2, heads=6, kv_heads=2, linear_attention=None, tied=False, dtype="bfloat16", seed=8,
        model_type="qwen2",
        rope_scaling={"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256},
        extra={"sliding_window": 64, "use_sliding_window": False},
    ),
    "mistral_linear": checkpoint.Shape(
        48, 2, heads=6, kv_heads=2, linear_attention=None, dtype="bfloat16", tied=False, seed=9,
        model_type="mistral", rope_scaling={"type": "linear", "factor": 4.0},
        extra={"sliding_window": None},
    ),
    # Every layer another form: S with fewer features beside windows of groups and of rows alone.
    "hybrid": checkpoint.Shape(
        48, 4, heads=6, kv_heads=2, dtype="bfloat16", seed=11, medusa_heads=3,
        linear_attention={
            "group_size": 8, "window": "group", "window_size": 16, "sinks": 4, "local": "softmax",
            "feature_map": "hedgehog", "feature_size": 6, "denominator": "joint", "decay": "head",
            "conv_kernel": 7,
            "layers": [
                {"layers": [1], "window_size": 264, **_LOCAL_ONLY},
                {"layers": [2, 3], "group_size": 4, "conv_kernel": 0},
                {"layers": [3], "window": "sliding", "window_size": 70, **_LOCAL_ONLY},
            ],
        },
    ),
    "qwen2_window_dynamic": checkpoint.Shape(
        48, 2, heads=6, kv_heads=2, dtype="bfloat16", seed=10, model_type="qwen2",
        linear_attention={
            "group_size": 8, "window_size": 8, "sinks": 2, **_WINDOWED, "conv_kernel": 3,
        },
        rope_scaling={"rope_type": "dynamic", "factor": 2.0}, max_context=1024,
        extra={"max_position_embeddings": 256},
    ),
}  # fmt: skip

Layer = tuple[AttentionSpec, AttentionParameters]


def _without_convolution(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return spec, dataclasses.replace(own, taps=np.zeros_like(own.taps))


def _without_oldest_tap(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    taps = own.taps.copy()
    taps[:, -1] = 0
    return spec, dataclasses.replace(own, taps=taps)


def _without_linear(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    if spec.denominator == "joint":
        return spec, dataclasses.replace(own, linear_factor=np.full_like(own.linear_factor, -1e9))
    return spec, dataclasses.replace(own, alpha=0.0)


def _without_sinks(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return dataclasses.replace(spec, sinks=0), own


def _without_decay(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return dataclasses.replace(spec, decay="none"), own


def _without_norm(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return dataclasses.replace(spec, qk_norm="none"), own


def _with_window_one_more(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return dataclasses.replace(spec, window_size=spec.window_size + 1), own


def _with_window_one_group_more(spec: AttentionSpec, own: AttentionParameters) -> Layer:
    return dataclasses.replace(spec, window_size=spec.window_size + spec.group_size), own


Ablation = Callable[[AttentionSpec, AttentionParameters], Layer]


def _ablations(spec: AttentionSpec) -> dict[str, Ablation]:
    """Those of the parts that the spec has."""
    present = {
        "convolution": (spec.conv_kernel > 0, _without_convolution),
        "oldest tap": (spec.conv_kernel > 0, _without_oldest_tap),
        "linear branch": (spec.feature_map != "none", _without_linear),
        "sinks": (spec.sinks > 0, _without_sinks),
        "decay": (spec.decay == "head", _without_decay),
        "qk_norm": (spec.qk_norm == "l2", _without_norm),
        "window size": (spec.window == "sliding", _with_window_one_more),
        "window groups": (
            spec.window == "group" and spec.window_size > spec.group_size,
            _with_window_one_group_more,
        ),
    }
    return {name: change for name, (has, change) in present.items() if has}


def _layers_of_each_form(specs: tuple[AttentionSpec, ...]) -> dict[str, list[int]]:
    """By a name for messages; one form is everything."""
    layers: dict[AttentionSpec, list[int]] = {}
    for layer, spec in enumerate(specs):
        layers.setdefault(spec, []).append(layer)
    if len(layers) == 1:
        return {"": list(range(len(specs)))}
    return {f"layers {same}: ": same for same in layers.values()}


def measure_effects(loaded: model.Model, tokens: list[int]) -> dict[str, float]:
    """The largest change of a chosen token's log-probability when a part is taken away."""
    baseline = chosen(loaded.log_probabilities(tokens), tokens)
    variants = {}
    for where, layers in _layers_of_each_form(loaded.specs).items():
        for name, change in _ablations(loaded.specs[layers[0]]).items():
            specs, attention = list(loaded.specs), list(loaded.attention)
            for layer in layers:
                specs[layer], attention[layer] = change(specs[layer], attention[layer])
            variants[where + name] = dataclasses.replace(
                loaded, specs=tuple(specs), attention=tuple(attention)
            )
    if loaded.config["rope_scaling"] is not None:
        unscaled = {**loaded.config, "rope_scaling": None}
        variants["rope scaling"] = dataclasses.replace(loaded, config=unscaled)
    for name in sorted({name.split(".", 3)[-1] for name in loaded.weights if "bias" in name}):
        others = {n: w for n, w in loaded.weights.items() if not n.endswith(name)}
        variants[name] = dataclasses.replace(loaded, weights=others)
    effects = {}
    for name, changed in variants.items():
        difference = chosen(changed.log_probabilities(tokens), tokens) - baseline
        effects[name] = float(np.abs(difference).max())
    return effects


def chosen(log_probabilities: np.ndarray, tokens: list[int]) -> np.ndarray:
    """log p(tokens[i] | tokens before) for i = 1, 2, ..."""
    return log_probabilities[np.arange(len(tokens) - 1), tokens[1:]]


def make_oracle(loaded: model.Model, seed: int) -> dict[str, list]:
    """The content of oracle.json."""
    rng = np.random.default_rng(seed)
    prompts = []
    for length in _PROMPT_LENGTHS:
        tokens = rng.integers(0, checkpoint.VOCAB_SIZE, length).tolist()
        log_probabilities = loaded.log_probabilities(tokens)
        prompts.append(
            {
                "tokens": tokens,
                "logprobs": _rounded(chosen(log_probabilities, tokens)),
                "next_logprobs": _rounded(log_probabilities[-1]),
            }
        )
    return {"prompts": prompts}


def _add_medusa_heads(folder: pathlib.Path, loaded: model.Model, oracle: dict[str, list]) -> None:
    """To each prompt the 10 likeliest guesses of each head: [token, log-probability], best first."""
    stored, _ = safetensors_io.load(folder / checkpoint.MEDUSA_FILE)
    heads = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    for prompt in oracle["prompts"]:
        guesses = loaded.medusa_log_probabilities(prompt["tokens"], heads)
        prompt["medusa"] = [
            [[int(i), *_rounded(row[i : i + 1])] for i in np.argsort(-row, kind="stable")[:10]]
            for row in guesses
        ]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), _DECIMALS) for value in values]


def make_checkpoint(folder: pathlib.Path, shape: checkpoint.Shape) -> None:
    """Writes one folder and says what its parts contribute."""
    checkpoint.write(folder, shape)
    loaded = dataclasses.replace(model.load(folder), max_context=shape.max_context)
    oracle = make_oracle(loaded, shape.seed)
    if shape.medusa_heads:
        _add_medusa_heads(folder, loaded, oracle)
    longest = oracle["prompts"][-1]
    effects = measure_effects(loaded, longest["tokens"])
    effects["tokens"] = float(np.std(longest["logprobs"]))
    listed = ", ".join(f"{part} {effect:.3f}" for part, effect in effects.items())
    print(f"{folder.name}: effects on log-probabilities: {listed}")
    if min(effects.values()) < _MIN_EFFECT:
        raise SystemExit(f"{folder.name}: a part makes no difference")
    if shape.max_context > 0:
        oracle["max_context"] = shape.max_context
    (folder / "oracle.json").write_text(json.dumps(oracle, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=_DEFAULT_OUTPUT, metavar="DIR")
    args = parser.parse_args()
    for name, shape in CHECKPOINTS.items():
        make_checkpoint(args.output / name, shape)


if __name__ == "__main__":
    main()
