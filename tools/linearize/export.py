"""Writes a trained model for Treeline: whole, or as an adapter to its base.

A merged folder is a Hugging Face folder with `linear_attention` in config.json. An adapter folder
holds adapter_model.safetensors, low-rank updates by PEFT's names (W + lora_alpha / r * B A) and the
attention's tensors by their own, and adapter_config.json, which carries `linear_attention`. The
low-rank matrices are int8, and NAME.scale, float32, holds what a row's integers are multiplied by.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

import safetensors_io
from linearize.model import Linear, Model, read_weights

_PEFT_PREFIX = "base_model.model.model."
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja", "LICENSE",
)  # fmt: skip


def merged(
    model: Model,
    base: pathlib.Path,
    linear_attention: Mapping[str, Any],
    folder: pathlib.Path,
    float32: bool = False,
) -> None:
    """In bf16 but for the attention's own tensors, or all in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = read_weights(base)
    changed = {name: linear for name, linear in model.linears() if _is_trained(linear)}
    for name, linear in changed.items():
        stored = f"model.{name}.weight"
        update = linear.weight.detach().float().cpu().numpy()
        if linear.scale:
            a, b = (x.weight.detach().float().cpu().numpy() for x in (linear.lora_A, linear.lora_B))
            update = weights[stored].astype(np.float32) + linear.scale * (b @ a)
        weights[stored] = update
    if float32:
        tensors = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    else:
        tensors = {name: safetensors_io.to_bf16(value) for name, value in weights.items()}
    tensors.update(_attention_tensors(model, "model."))
    safetensors_io.save(folder / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", {**config, "linear_attention": dict(linear_attention)})
    for name in _BESIDE:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def adapter(
    model: Model, base_name: str, linear_attention: Mapping[str, Any], folder: pathlib.Path
) -> None:
    linears = {name: linear for name, linear in model.linears() if linear.scale}
    whole = [name for name, linear in model.linears() if linear.weight.requires_grad]
    if whole:
        raise ValueError(f"{whole[0]} was trained whole: only a merged export can hold it")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, linear in linears.items():
        for part, module in (("lora_A", linear.lora_A), ("lora_B", linear.lora_B)):
            value = module.weight.detach().float().cpu().numpy()
            stored = f"{_PEFT_PREFIX}{name}.{part}.weight"
            tensors[stored], tensors[f"{stored}.scale"] = quantised(value)
    tensors.update(_attention_tensors(model, "model."))
    safetensors_io.save(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    first = next(iter(linears.values()), None)
    rank = len(first.lora_A.weight) if first else 0
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "r": rank,
            "lora_alpha": first.scale * rank if first else 0,
            "target_modules": sorted({name.rpartition(".")[2] for name in linears}),
            "linear_attention": dict(linear_attention),
        },
    )


def quantised(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 rows and the float32 scale of each: the row's largest value becomes 127."""
    scale = np.abs(matrix).max(1) / np.float32(127)
    integers = np.rint(matrix / np.where(scale == 0, 1, scale)[:, None])
    return integers.astype(np.int8), scale.astype(np.float32)


def _is_trained(linear: Linear) -> bool:
    return linear.scale != 0.0 or linear.weight.requires_grad


def _attention_tensors(model: Model, prefix: str) -> dict[str, np.ndarray]:
    """In float32: they are small, and the engine's bits should be those that were trained."""
    return {
        prefix + name: parameter.detach().float().cpu().numpy()
        for name, parameter in model.attention_parameters().items()
    }


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
