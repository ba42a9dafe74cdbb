#!/usr/bin/env python3
"""Writes a small random adapter to the checkpoint `softmax`, and what a float64 model predicts with
it.

The folder is laid out as linearize's export does it, with every type that the factors may have.
merged.safetensors holds the last layer's changed weights and oracle.json the predictions, both
computed here with NumPy alone. The run stops where an update or the linearized attention makes no
difference.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

import make_test_checkpoints
import safetensors_io
from oracle import checkpoint, model

_TESTDATA = pathlib.Path(__file__).parent.parent / "tests/testdata"
_BASE = "checkpoints/softmax"
_RANK, _ALPHA = 4, 6.0
_SEED = 21
_LINEAR_ATTENTION = {
    "group_size": 8, "window": "sliding", "window_size": 8, "sinks": 2, "local": "softmax",
    "feature_map": "hedgehog", "feature_size": 6, "denominator": "joint", "decay": "head",
    "conv_kernel": 7,
}  # fmt: skip
# Of A and of B, by module: int8 stands for int8 rows with a float32 factor each.
_TYPES = {
    "self_attn.q_proj": ("int8", "int8"),
    "self_attn.k_proj": ("bf16", "int8"),
    "self_attn.v_proj": ("f32", "f16"),
    "self_attn.o_proj": ("int8", "bf16"),
    "mlp.gate_proj": ("f16", "f32"),
    "mlp.down_proj": ("int8", "int8"),
}


def _stored(name: str, values: np.ndarray, kind: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors to write, and the values that they stand for, in float64."""
    if kind == "int8":
        scale = (np.abs(values).max(axis=1) / 127).astype(np.float32)
        rows = np.rint(values / scale[:, None]).astype(np.int8)
        return {name: rows, name + ".scale": scale}, rows * scale[:, None].astype(np.float64)
    if kind == "bf16":
        bits = safetensors_io.to_bf16(values)
        return {name: bits}, safetensors_io.from_bf16(bits).astype(np.float64)
    rounded = values.astype({"f16": np.float16, "f32": np.float32}[kind])
    return {name: rounded}, rounded.astype(np.float64)


def main() -> None:
    base = _TESTDATA / _BASE
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    weights, _ = safetensors_io.load(base / "model.safetensors")
    rng = np.random.default_rng(_SEED)
    tensors, merged = {}, {}
    for layer in range(config["num_hidden_layers"]):
        for module, (a_type, b_type) in _TYPES.items():
            target = f"model.layers.{layer}.{module}"
            rows, columns = weights[f"{target}.weight"].shape
            a = rng.standard_normal((_RANK, columns)) / np.sqrt(columns)
            b = 0.3 * rng.standard_normal((rows, _RANK))
            written_a, a = _stored(f"base_model.model.{target}.lora_A.weight", a, a_type)
            written_b, b = _stored(f"base_model.model.{target}.lora_B.weight", b, b_type)
            tensors.update({**written_a, **written_b})
            merged[f"{target}.weight"] = weights[f"{target}.weight"] + _ALPHA / _RANK * (b @ a)
    shape = checkpoint.Shape(
        config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
        config["num_key_value_heads"], linear_attention=_LINEAR_ATTENTION, seed=_SEED,
    )  # fmt: skip
    drawn = checkpoint.draw_weights(shape)
    attention = {name: value for name, value in drawn.items() if name not in weights}
    tensors.update(attention)

    adapted = {**weights, **merged, **attention}
    oracle = _predict(config, adapted, weights)
    folder = _TESTDATA / "adapter"
    folder.mkdir(exist_ok=True)
    safetensors_io.save(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    safetensors_io.save(
        folder / "merged.safetensors",
        {name: merged[name].astype(np.float32) for name in merged if f".{layer}." in name},
    )
    adapter_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": f"tests/testdata/{_BASE}",
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "target_modules": sorted(module.rpartition(".")[2] for module in _TYPES),
        "linear_attention": _LINEAR_ATTENTION,
    }
    text = json.dumps(adapter_config, indent=1) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    (folder / "oracle.json").write_text(json.dumps(oracle, separators=(",", ":")) + "\n")


def _predict(
    config: dict, adapted: dict[str, np.ndarray], base: dict[str, np.ndarray]
) -> dict[str, list]:
    """The content of oracle.json; it must need every changed tensor."""
    linearized = {**config, "linear_attention": _LINEAR_ATTENTION}
    loaded = model.build(linearized, adapted)
    oracle = make_test_checkpoints.make_oracle(loaded, _SEED)
    tokens = oracle["prompts"][-1]["tokens"]

    def chosen(of: model.Model) -> np.ndarray:
        return make_test_checkpoints.chosen(of.log_probabilities(tokens), tokens)

    expected = chosen(loaded)
    effects = {"attention": chosen(model.build(config, adapted)) - expected}
    for name in base:
        if not np.array_equal(base[name], adapted[name]):
            unchanged = model.build(linearized, {**adapted, name: base[name]})
            effects[name] = chosen(unchanged) - expected
    for name, effect in effects.items():
        if np.abs(effect).max() < 0.01:
            raise SystemExit(f"{name} makes no difference")
    return oracle


if __name__ == "__main__":
    main()
