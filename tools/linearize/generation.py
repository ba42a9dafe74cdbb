"""The model's own answers to the prompts of a token set: text to train draft heads on.

Greedy, many sequences at once, every one from position 0, so that a step's position, and with it
what a row may see, is the same for all. A row attends by the definition (`Attention.attend`) to all
rows so far: meant for answers of hundreds of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from linearize.attention import Attention
from linearize.corpus import TokenSet
from linearize.model import Layer, Model


def prompts(
    dialogues: TokenSet, opening: Sequence[int], max_length: int, seed: int
) -> Iterator[np.ndarray]:
    """Of each dialogue, in random order, what comes before one of its answers, with `opening`, the
    tokens that open an answer; none longer than `max_length`."""
    rng = np.random.default_rng(seed)
    for i in rng.permutation(len(dialogues.lengths)):
        tokens = np.asarray(dialogues.tokens[dialogues.offsets[i] : dialogues.offsets[i + 1]])
        windows = np.lib.stride_tricks.sliding_window_view(tokens[:max_length], len(opening))
        ends = np.flatnonzero((windows == np.asarray(opening)).all(1)) + len(opening)
        if len(ends):
            yield tokens[: rng.choice(ends)]


@torch.no_grad()
def answers(
    model: Model, texts: Sequence[np.ndarray], length: int, batch: int, stop: int
) -> Iterator[np.ndarray]:
    """Each text with the model's continuation, up to the token `stop` or `length` tokens in all.
    The model's updates must be folded in (Model.fold_updates)."""
    batch = min(batch, len(texts))
    decoder = _Decoder(model, batch, length)
    for i in range(0, len(texts), batch):
        some = texts[i : i + batch]
        for text, tokens in zip(some, decoder.run(some), strict=False):
            stops = np.flatnonzero(tokens[len(text) :] == stop)
            yield tokens[: len(text) + stops[0] + 1] if len(stops) else tokens


_REACH_STEP = 128  # rows: a step looks at no more rows than there are, but for so many


class _Cache:
    """What a layer keeps of the rows so far; heads before rows, as the products want them."""

    def __init__(self, attention: Attention, model: Model, batch: int, length: int) -> None:
        config, device = model.config, model.head_weight.device
        widths = [config.head_dim, config.head_dim]
        if attention.spec.feature_map != "none":
            widths.append(attention.spec.features(config.head_dim))
        shape = (batch, config.kv_heads, length)
        self._buffers = [torch.zeros(*shape, w, dtype=model.dtype, device=device) for w in widths]

    def add(self, row: torch.Tensor, reach: int, *values: torch.Tensor) -> list[torch.Tensor]:
        """Stores [batch, 1, kv_heads, ...] as that row; gives the first `reach` rows, [batch,
        reach, kv_heads, ...]."""
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.index_copy_(2, row, value.transpose(1, 2).to(buffer.dtype))
        return [buffer[:, :, :reach].transpose(1, 2) for buffer in self._buffers]


class _Decoder:
    def __init__(self, model: Model, batch: int, length: int) -> None:
        device = model.head_weight.device
        self._model = model
        self._tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
        self._given = torch.zeros(batch, length, dtype=torch.bool, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        positions = torch.arange(length, device=device)[None]
        self._rotation = model.rotation(positions)
        self._pairs = [layer.self_attn.pairs(positions) for layer in model.layers]
        self._caches = [_Cache(layer.self_attn, model, batch, length) for layer in model.layers]
        self._replays: dict[int, Callable[[], None]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._row.is_cuda else None

    def run(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """[texts, length]."""
        self._given.zero_()
        for i, text in enumerate(texts):
            self._tokens[i, : len(text)] = torch.from_numpy(text.astype(np.int64))
            self._given[i, : len(text)] = True
        self._row.zero_()
        length = self._tokens.shape[1]
        for row in range(length - 1):
            self._advance(min(length, row // _REACH_STEP * _REACH_STEP + _REACH_STEP))
        return self._tokens[: len(texts)].cpu().numpy().copy()

    def _advance(self, reach: int) -> None:
        """One step, which looks at the first `reach` rows."""
        if reach in self._replays:
            self._replays[reach]()
            return
        self._step(reach)
        if self._row.is_cuda:  # the first step has chosen its kernels: record it
            graph = torch.cuda.CUDAGraph()
            row = self._row.clone()
            with torch.cuda.graph(graph, pool=self._pool):
                self._step(reach)
            self._row.copy_(row)  # recording runs nothing
            self._replays[reach] = graph.replay

    def _step(self, reach: int) -> None:
        """Reads the token at the row and writes the next one, where it is not given."""
        model, row = self._model, self._row
        x = model.embed(self._tokens.index_select(1, row))
        for i in range(len(model.layers)):
            x = self._layer(i, x, reach)
        choice = model.logits(model.norm(x)).argmax(-1)
        row += 1
        given = self._given.index_select(1, row)
        self._tokens.index_copy_(
            1, row, torch.where(given, self._tokens.index_select(1, row), choice)
        )

    def _layer(self, index: int, x: torch.Tensor, reach: int) -> torch.Tensor:
        layer: Layer = self._model.layers[index]
        attention, row = layer.self_attn, self._row
        q, k, v = attention.project(layer.input_layernorm(x), self._rotation.index_select(2, row))
        local_set, linear_scale = (
            pair.index_select(2, row)[..., :reach] for pair in self._pairs[index]
        )
        features = None
        if attention.spec.feature_map == "none":
            keys, values = self._caches[index].add(row, reach, k, v)
        else:
            fq, fk = attention.features(q, k)
            keys, values, mapped = self._caches[index].add(row, reach, k, v, fk)
            features = (fq, mapped)
        output = attention.attend(q, keys, values, features, local_set, linear_scale)
        if attention.spec.conv_kernel:
            output = output + _convolution(attention, values, row)
        return layer.after_attention(x, output)


def _convolution(attention: Attention, values: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    taps = attention.taps()
    rows = row - torch.arange(taps.shape[1], device=row.device)
    taps = (taps * (rows >= 0)).to(values.dtype).unflatten(0, (attention.kv_heads, -1))
    recent = values.index_select(1, rows.clamp_min(0))
    return torch.einsum("krt,btkd->bkrd", taps, recent).flatten(1, 2)[:, None]
