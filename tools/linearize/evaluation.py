"""Perplexity in windows, recall probes, and how often draft heads are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from linearize import corpus, medusa, recall
from linearize.attention import BLOCK_ROWS
from linearize.model import Model

_SLICE_ROWS = 8192


@torch.no_grad()
def token_losses(model: Model, row: corpus.Row) -> tuple[np.ndarray, np.ndarray]:
    """For each token of the row: -log p of the next token, and whether that was the likeliest."""
    device = model.head_weight.device
    tokens = torch.from_numpy(row.tokens).to(device)[None]
    hidden = model.hidden(tokens, torch.from_numpy(row.positions).to(device)[None])[0]
    targets = torch.from_numpy(row.targets).to(device)
    values = []
    for i in range(0, len(targets), _SLICE_ROWS):
        logits, wanted = model.logits(hidden[i : i + _SLICE_ROWS]), targets[i : i + _SLICE_ROWS]
        loss = F.cross_entropy(logits, wanted, reduction="none")
        values.append(torch.stack([loss, (logits.argmax(-1) == wanted).float()]))
    loss, hit = torch.cat(values, 1).cpu().numpy()
    return loss, hit


@torch.no_grad()
def head_accuracy(
    model: Model,
    heads: medusa.MedusaHeads,
    tokens: corpus.TokenSet,
    max_tokens: int,
    row_tokens: int,
    guesses: int = 10,
) -> list[list[float]]:
    """[heads][guesses]: how often a head's n-th likeliest token is what the model itself says
    there; documents from the start of the set, their first `row_tokens` tokens."""
    device, scale = model.head_weight.device, medusa.drawn_scale(model)
    ends = tokens.offsets[1:]
    documents = [
        np.asarray(tokens.tokens[begin : min(end, begin + row_tokens)], np.int64)
        for begin, end in zip(tokens.offsets[:-1], ends, strict=True)
        if begin < max_tokens
    ]
    hits, counted = torch.zeros(len(heads), guesses), torch.zeros(len(heads))
    align = max(model.alignment, BLOCK_ROWS)
    for row, _ in corpus.pack_all(documents, row_tokens, align):
        ids, positions, is_text = (
            torch.from_numpy(x).to(device) for x in (row.tokens, row.positions, row.is_text)
        )
        examples = medusa.read(model, ids, positions, is_text.float(), len(heads))
        for rows in torch.arange(len(ids), device=device).split(_SLICE_ROWS):
            some = examples.take(rows)
            drawn = model.embed(some.drawn) * scale
            for k in range(len(heads)):
                top = model.logits(heads.guess(k, some.hidden, drawn)).topk(guesses).indices
                hits[k] += (top == some.targets[:, k, None]).sum(0).cpu()
                counted[k] += (some.targets[:, k] >= 0).sum().cpu()
    return (hits / counted[:, None]).tolist()


def perplexity(
    model: Model, tokens: np.ndarray, context: int, max_tokens: int, row_tokens: int
) -> float:
    """Over the first `max_tokens` tokens in windows that do not overlap, without BOS; a window's
    first token is not scored, and a last incomplete window is dropped."""
    count = min(len(tokens), max_tokens) // context
    windows = np.asarray(tokens[: count * context], np.int64).reshape(count, context)
    total, scored = 0.0, 0
    for row, _ in corpus.pack_all(list(windows), row_tokens, align=context):
        loss, _ = token_losses(model, row)
        total += float(loss[row.has_target].sum(dtype=np.float64))
        scored += int(row.has_target.sum())
    return math.exp(total / scored)


def recall_scores(
    model: Model, probes: recall.Probes, row_tokens: int
) -> list[Mapping[str, object]]:
    """One entry for each task and distance: mean -log p and top-1 accuracy of the answers'
    tokens."""
    losses: dict[tuple[str, int], list[np.ndarray]] = {}
    align = max(model.alignment, BLOCK_ROWS)
    for row, starts in corpus.pack_all(probes.documents, row_tokens, align):
        loss, hit = token_losses(model, row)
        for i, start in starts:
            answer = slice(start + probes.answers[i][0] - 1, start + probes.answers[i][1] - 1)
            key = (probes.tasks[i], probes.distances[i])
            losses.setdefault(key, []).append(np.array([loss[answer].mean(), hit[answer].mean()]))
    return [
        {"task": task, "distance": distance, "nll": _mean(values, 0), "top1": _mean(values, 1)}
        for (task, distance), values in sorted(losses.items())
    ]


def _mean(values: Sequence[np.ndarray], column: int) -> float:
    return round(float(np.mean([value[column] for value in values])), 4)
