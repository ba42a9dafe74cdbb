"""Medusa heads: small residual blocks that guess the tokens after the next one from the last hidden
state, through the model's own output matrix.

Head k, counted from 0, guesses the token k + 2 places ahead. It learns what the model itself would
say there: over a text, the model's likeliest token k + 1 places further on.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import safetensors_io
from linearize import loss as losses
from linearize.model import Model
from linearize.pairs import Pairs

_HEAD_WEIGHT = 0.8  # each head's loss counts so much less than the one before


class ResidualBlock(nn.Module):
    """h + SiLU(W h + b); nothing but h at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight, bias = self.linear.weight.to(hidden.dtype), self.linear.bias.to(hidden.dtype)
        return hidden + F.silu(F.linear(hidden, weight, bias))


class MedusaHeads(nn.ModuleList):
    """Parameters are called HEAD.0.linear.weight, as Medusa's own files have it."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__(nn.Sequential(ResidualBlock(size)) for _ in range(heads))


def own_choices(model: Model, hidden: torch.Tensor) -> torch.Tensor:
    """The model's likeliest next token after each row; hidden [rows, size]."""
    return torch.cat([model.logits(part).argmax(-1) for part in hidden.split(8192)])


def judged(is_text: torch.Tensor, positions: torch.Tensor, ahead: int) -> torch.Tensor:
    """1.0 where the place so many rows ahead lies in the same document, else 0.0; all [rows]."""
    inside = is_text[:-ahead] * is_text[ahead:] * (positions[ahead:] >= ahead)
    return F.pad(inside, (0, ahead))


def heads_loss(
    heads: MedusaHeads,
    hidden: torch.Tensor,
    choices: torch.Tensor,
    positions: torch.Tensor,
    is_text: torch.Tensor,
    head_weight: torch.Tensor,
    function: Callable = losses.target_slice,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss and each head's top-1 accuracy. hidden [rows, size]; the others [rows]."""
    total, accuracy = torch.zeros((), device=hidden.device), []
    for k, head in enumerate(heads):
        ahead = k + 1
        inside = judged(is_text, positions, ahead)
        weight = inside / inside.sum().clamp_min(1.0)
        loss, hits = losses.target_loss(
            head(hidden), head_weight, choices.roll(-ahead), weight, function
        )
        total = total + _HEAD_WEIGHT**k * loss
        accuracy.append(hits)
    return total, accuracy


def save(heads: MedusaHeads, base_name: str, folder: pathlib.Path, pairs: Pairs | None) -> None:
    """Medusa's two files, without output matrices: the heads share the model's. Token pairs lie
    beside the heads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: safetensors_io.to_bf16(parameter.detach().float().cpu().numpy())
        for name, parameter in heads.named_parameters()
    }
    tensors.update(pairs.tensors() if pairs else {})
    safetensors_io.save(folder / "medusa_lm_head.safetensors", tensors, {"format": "pt"})
    config = {
        "base_model_name_or_path": base_name,
        "medusa_num_heads": len(heads),
        "medusa_num_layers": 1,
        "shared_lm_head": True,
    }
    (folder / "medusa_config.json").write_text(
        json.dumps(config, indent=1) + "\n", encoding="utf-8"
    )
