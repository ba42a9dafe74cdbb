"""How fast a shape of model trains, and in how much memory: weights and tokens are random."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from linearize import corpus, model, training
from linearize.attention import BLOCK_ROWS, Attention
from linearize.form import Form

_DOCUMENTS = 64
_RATE, _NEW_RATE, _GATE_RATE, _CE_WEIGHT = 7e-4, 1.4e-3, 1.4e-2, 0.1
_LOG_EVERY = 5
_TIMED, _WARM_UP = 30, 5


def training_steps(
    folder: pathlib.Path,
    student: model.Model,
    schedule: training.Schedule,
    row_tokens: int,
    log: training.Log,
    compile_it: bool,
) -> None:
    """Distils a random softmax model of the folder's shape into `student`; the log says tokens a
    second and peak memory. Documents fill a row."""
    device = student.head_weight.device
    teacher = model.random(folder, model.SOFTMAX, student.dtype, device)
    rng = np.random.default_rng(0)
    length = max(phase.max_length for phase in schedule.phases)
    tokens = rng.integers(0, student.config.vocab_size, _DOCUMENTS * length)
    documents = corpus.TokenSet(tokens, np.arange(_DOCUMENTS + 1) * length)
    align = max(student.alignment, BLOCK_ROWS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # making models takes more
    training.distill(
        teacher, student, _NEW_RATE, _GATE_RATE, _CE_WEIGHT,
        corpus.Sampler([(documents, 1.0)], row_tokens, align, seed=0), schedule, _RATE,
        training.NoCheckpoint(), log,
        training.RunOptions(compile=compile_it, log_every=_LOG_EVERY, save_every_s=math.inf),
    )  # fmt: skip


def attention(
    folder: pathlib.Path,
    block: Mapping[str, Any],
    length: int,
    dtype: torch.dtype,
    device: str,
) -> Iterator[dict[str, Any]]:
    """One layer's attention, forward and backward, batch 1, compiled: softmax by
    scaled_dot_product_attention (on a GPU its flash kernel), and each form that `block` has. On a
    GPU `ms` is what its kernels take, replayed as a graph, and `launched_ms` what it takes to have
    them launched one by one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = model.Config.from_json(config)
    heads = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
    q, k, v = (
        torch.randn(1, length, count, sizes.head_dim, device=device, dtype=dtype).requires_grad_()
        for count in heads
    )
    gradient = torch.randn_like(q)
    positions = torch.arange(length, device=device)[None]
    shape = {"length": length, "heads": heads[:2], "head_dim": sizes.head_dim}

    def timed(
        attend: Callable[[], torch.Tensor], parameters: Sequence[torch.nn.Parameter]
    ) -> dict[str, float]:
        def step() -> None:
            for tensor in (q, k, v, *parameters):
                tensor.grad = None
            attend().backward(gradient)

        if device == "cpu":
            return {"ms": round(_median_ms(step, device), 4)}
        launched = _median_ms(step, device)
        replay = _recorded(step)
        return {"ms": round(_median_ms(replay, device), 4), "launched_ms": round(launched, 4)}

    softmax = _compiled(_softmax, device)
    with _flash(device):
        baseline = timed(lambda: softmax(q, k, v), [])
    yield {"attention": "softmax", **shape, **baseline}
    forms = Form.for_layers(block, sizes.num_layers)
    for form in dict.fromkeys(forms):
        layer = Attention(form, sizes.heads, sizes.kv_heads, sizes.head_dim).to(device)
        attend = _compiled(layer, device)
        times = timed(lambda attend=attend: attend(q, k, v, positions), list(layer.parameters()))
        yield {
            "attention": f"groups of {form.group_size}, window {form.window_size}, "
            f"{form.features(sizes.head_dim)} features",
            "layers": forms.count(form), **shape, **times,
            "speedup": round(baseline["ms"] / times["ms"], 3),
        }  # fmt: skip


def _softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    repeats = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(repeats, 2) if repeats > 1 else x for x in (k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _flash(device: str) -> contextlib.AbstractContextManager:
    if device == "cpu":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


def _compiled(function: Callable, device: str) -> Callable:
    return function if device == "cpu" else torch.compile(function, dynamic=False)


def _recorded(step: Callable[[], None]) -> Callable[[], None]:
    """Replays what the step launches. It must have run before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _median_ms(step: Callable[[], None], device: str) -> float:
    for _ in range(_WARM_UP):
        step()
    if device == "cpu":
        times = []
        for _ in range(_TIMED):
            began = time.perf_counter()
            step()
            times.append((time.perf_counter() - began) * 1e3)
        return float(np.median(times))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(_TIMED)]
    for begin, end in events:
        begin.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([begin.elapsed_time(end) for begin, end in events]))
