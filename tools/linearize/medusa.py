"""Draft heads: blocks that guess the tokens after the next one from the last hidden state and the
token drawn from it, through the model's own output matrix.

Head k, counted from 0, guesses the token k + 2 places ahead. It learns what the model itself would
say there: over a text, the model's likeliest token k + 1 places further on. They are Medusa's heads
but for the drawn token; a block that sees it is Hydra's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

import safetensors_io
from linearize import loss as losses
from linearize.model import Model
from linearize.pairs import Pairs

_HEAD_WEIGHT = 0.8  # each head's loss counts so much less than the one before
_DROPOUT = 0.1  # in training, of what a block reads


class Block(nn.Module):
    """A [h; e] + c + SiLU(W [h; e] + b) of the hidden state h and the drawn token's embedding e;
    nothing but h at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * size, size)  # W, b
        self.res_connection = nn.Linear(2 * size, size)  # A, c
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.eye_(self.res_connection.weight)

    def forward(self, hidden: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        drawn = F.dropout(drawn, _DROPOUT, self.training)
        straight = _product(self.res_connection, hidden, drawn)  # h comes through whole
        hidden = F.dropout(hidden, _DROPOUT, self.training)
        return straight + F.silu(_product(self.linear, hidden, drawn))


def _product(layer: nn.Linear, hidden: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.weight.to(hidden.dtype), layer.bias.to(hidden.dtype)
    return F.linear(torch.cat([hidden, drawn], -1), weight, bias)


class MedusaHeads(nn.ModuleList):
    """Parameters are called HEAD.0.linear.weight, HEAD.0.res_connection.weight and so on."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__(nn.ModuleList([Block(size)]) for _ in range(heads))

    def guess(self, k: int, hidden: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """What the output matrix turns into head k's logits. hidden [rows, size]; drawn [rows,
        size], embeddings times `drawn_scale`."""
        return self[k][0](hidden, drawn)


def drawn_scale(model: Model) -> float:
    """What brings embeddings to about the size of 1. A power of two, so that nothing is rounded
    where `save` puts it into the weights; from bf16, so that it is the same in any precision."""
    mean_square = model.embed_tokens.weight.bfloat16().float().square().mean()
    return 2.0 ** round(-0.5 * math.log2(mean_square.item()))


@dataclasses.dataclass(frozen=True)
class Examples:
    """What heads learn from and are judged by, for each token of a text."""

    hidden: torch.Tensor  # [rows, size]
    drawn: torch.Tensor  # [rows]: the token that follows
    targets: torch.Tensor  # [rows, heads]: what the model says further on; -1: the text has ended

    def take(self, rows: torch.Tensor) -> Examples:
        return Examples(self.hidden[rows], self.drawn[rows], self.targets[rows])

    @classmethod
    def join(cls, parts: Iterable[Examples]) -> Examples:
        """Those that have a target."""
        parts = [part.take(part.targets[:, 0] >= 0) for part in parts]
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def read(
    model: Model,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    is_text: torch.Tensor,
    heads: int,
) -> Examples:
    """tokens, positions and is_text (1.0 or 0.0) [rows]."""
    hidden = model.hidden(tokens[None], positions[None])[0]
    choices = torch.cat([model.logits(part).argmax(-1) for part in hidden.split(8192)])
    return Examples(hidden, tokens.roll(-1), targets(choices, positions, is_text, heads))


def targets(
    choices: torch.Tensor, positions: torch.Tensor, is_text: torch.Tensor, heads: int
) -> torch.Tensor:
    """[rows, heads]: of the model's choices after each row, that k + 1 rows ahead for head k, or -1
    where the document has ended by then."""
    columns = []
    for ahead in range(1, heads + 1):
        inside = is_text[:-ahead] * is_text[ahead:] * (positions[ahead:] >= ahead)
        outside = F.pad(inside, (0, ahead)) == 0
        columns.append(choices.roll(-ahead).masked_fill(outside, -1))
    return torch.stack(columns, 1)


def heads_loss(
    heads: MedusaHeads,
    hidden: torch.Tensor,
    drawn: torch.Tensor,
    targets: torch.Tensor,
    head_weight: torch.Tensor,
    function: Callable = losses.target_slice,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss and each head's top-1 accuracy. hidden and drawn as for `MedusaHeads.guess`;
    targets [rows, heads]."""
    total, accuracy = torch.zeros((), device=hidden.device), []
    for k in range(len(heads)):
        wanted = targets[:, k].contiguous()
        inside = (wanted >= 0).float()
        weight = inside / inside.sum().clamp_min(1.0)
        guess = heads.guess(k, hidden, drawn)
        loss, hits = losses.target_loss(guess, head_weight, wanted, weight, function)
        total = total + _HEAD_WEIGHT**k * loss
        accuracy.append(hits)
    return total, accuracy


def save(
    heads: MedusaHeads,
    drawn_scale: float,
    base_name: str,
    folder: pathlib.Path,
    pairs: Pairs | None,
) -> None:
    """Medusa's two files, without output matrices: the heads share the model's. Their weights take
    rows of the embedding as they are. Token pairs lie beside the heads."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in heads.named_parameters():
        value = parameter.detach().float().cpu().clone()
        if value.dim() == 2:
            value[:, len(value) :] *= drawn_scale
        tensors[name] = safetensors_io.to_bf16(value.numpy())
    tensors.update(pairs.tensors() if pairs else {})
    safetensors_io.save(folder / "medusa_lm_head.safetensors", tensors, {"format": "pt"})
    config = {
        "base_model_name_or_path": base_name,
        "medusa_num_heads": len(heads),
        "medusa_num_layers": 1,
        "shared_lm_head": True,
        "medusa_reads_drawn_token": True,
    }
    (folder / "medusa_config.json").write_text(
        json.dumps(config, indent=1) + "\n", encoding="utf-8"
    )
