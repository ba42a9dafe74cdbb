"""Triton kernels for what a row sees directly: its local softmax set and the linear terms that are
not yet folded into S.

    o_p = (sum_local exp(s_pj - m_p) v_j + sum_band phi_q(p).phi_k(j) v_j + state_numerator_p)
          / (sum_local exp(s_pj - m_p)   + sum_band phi_q(p).phi_k(j)     + state_denominator_p)

m_p, the row's largest local score, is part of the function (docs/attention.md), so its gradient
flows to the column that attains it. `state_*` is the folded part, made outside. Without features
this is plain sliding-window softmax attention with sinks.

Shapes: q [batch, n, heads, d]; k, v [batch, n, kv_heads, d]; features the same with f for d. n is a
multiple of 64, the group size one of 64 or a divisor of it; documents start at multiples of both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 64  # a tile's rows, and its columns
SINK_COLUMNS = 16  # the tile that holds the sinks; the least that tl.dot takes
_WARPS = 4


@triton.jit
def _first_column(start, row, window, GROUP: tl.constexpr, BAND: tl.constexpr, ROWS: tl.constexpr):
    """Where the band of the row block at `row` begins. BAND: rows of whole groups before the row's
    own that are not folded; -1: the window alone bounds it."""
    if BAND >= 0:
        return tl.maximum(start, (start + (row - start) // GROUP * GROUP - BAND) // ROWS * ROWS)
    else:
        return tl.maximum(start, (row - window + 1) // ROWS * ROWS)


@triton.jit
def _tile_kinds(start, row, column, window, sinks, F: tl.constexpr, ROWS: tl.constexpr):
    """Whether a tile holds local pairs, and whether it holds linear ones; most hold one kind."""
    nearest = row - column - ROWS + 1
    has_local = (nearest < window) | (column < start + sinks)
    has_linear = (row - column + ROWS - 1 >= window) & (F > 0)
    return has_local, has_linear


@triton.jit
def _is_near(start, rows, columns, GROUP: tl.constexpr, BAND: tl.constexpr, ROWS: tl.constexpr):
    """Which pairs are neither ahead nor folded. Where groups are not smaller than tiles, the loop
    over tiles meets no folded ones."""
    near = rows >= columns
    if BAND >= 0:  # noqa: SIM102 (both are known when compiling)
        if GROUP < ROWS:
            near = near & (columns >= start + (rows - start) // GROUP * GROUP - BAND)
    return near


@triton.jit
def _forward_kernel(
    Q, K, V, FQ, FK, NUMERATOR, DENOMINATOR, START, OUT, MAXIMUM, TOTAL, ARGMAX,
    n, window, sinks, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, F: tl.constexpr,
    GROUP: tl.constexpr, BAND: tl.constexpr, SINKS: tl.constexpr, ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    block, batch, head = tl.program_id(0), tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    kv_head = head // (HEADS // KV_HEADS)
    start = tl.load(START + batch * (n // ROWS) + block)
    rows = block * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, D)
    row_index = (batch * n + rows) * HEADS + head
    q = tl.load(Q + row_index[:, None] * D + d[None, :])
    maximum = tl.full([ROWS], -float("inf"), tl.float32)
    argmax = tl.zeros([ROWS], tl.int32)
    total = tl.zeros([ROWS], tl.float32)
    local = tl.zeros([ROWS, D], tl.float32)
    if F:
        f = tl.arange(0, F)
        fq = tl.load(FQ + row_index[:, None] * F + f[None, :])
        linear = tl.load(NUMERATOR + row_index[:, None] * D + d[None, :]).to(tl.float32)
        linear_total = tl.load(DENOMINATOR + row_index).to(tl.float32)
    first = _first_column(start, block * ROWS, window, GROUP, BAND, ROWS)

    if SINKS and first > start:
        columns = start + tl.arange(0, SINKS)
        column_index = (batch * n + columns) * KV_HEADS + kv_head
        k = tl.load(K + column_index[:, None] * D + d[None, :])
        v = tl.load(V + column_index[:, None] * D + d[None, :])
        is_sink = (columns < start + sinks)[None, :]
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        s = tl.where(is_sink, s, -float("inf"))
        maximum = tl.max(s, 1)
        argmax = start + tl.argmax(s, 1).to(tl.int32)
        e = tl.exp(s - maximum[:, None])
        total = tl.sum(e, 1)
        local = tl.dot(e.to(v.dtype), v, input_precision=PRECISION)

    for column in range(first, block * ROWS + ROWS, ROWS):
        columns = column + tl.arange(0, ROWS)
        column_index = (batch * n + columns) * KV_HEADS + kv_head
        k = tl.load(K + column_index[:, None] * D + d[None, :])
        v = tl.load(V + column_index[:, None] * D + d[None, :])
        distance = rows[:, None] - columns[None, :]
        near = _is_near(start, rows[:, None], columns[None, :], GROUP, BAND, ROWS)
        is_sink = (columns < start + sinks)[None, :] & (distance >= 0)
        is_local = (near & (distance < window)) | is_sink
        has_local, has_linear = _tile_kinds(
            start, block * ROWS, column, window, sinks, F, ROWS
        )  # fmt: skip
        if has_local:
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            s = tl.where(is_local, s, -float("inf"))
            tile_maximum = tl.max(s, 1)
            if F:
                tile_argmax = column + tl.argmax(s, 1).to(tl.int32)
                argmax = tl.where(tile_maximum > maximum, tile_argmax, argmax)
            new_maximum = tl.maximum(maximum, tile_maximum)
            safe = tl.where(new_maximum == -float("inf"), 0.0, new_maximum)
            e = tl.exp(s - safe[:, None])
            shrink = tl.exp(maximum - safe)
            total = total * shrink + tl.sum(e, 1)
            local = local * shrink[:, None] + tl.dot(e.to(v.dtype), v, input_precision=PRECISION)
            maximum = new_maximum
        if F:  # noqa: SIM102 (one is known when compiling, one when running)
            if has_linear:
                fk = tl.load(FK + column_index[:, None] * F + f[None, :])
                u = tl.dot(fq, tl.trans(fk), input_precision=PRECISION)
                u = tl.where(near & (is_local == 0), u, 0.0)
                linear += tl.dot(u.to(v.dtype), v, input_precision=PRECISION)
                linear_total += tl.sum(u, 1)

    if F:
        local += linear
        total += linear_total
        tl.store(ARGMAX + row_index, argmax)
    tl.store(OUT + row_index[:, None] * D + d[None, :], local / total[:, None])
    tl.store(MAXIMUM + row_index, maximum)
    tl.store(TOTAL + row_index, total)


@triton.jit
def _backward_rows_kernel(
    Q, K, V, FQ, FK, START, OUT, MAXIMUM, TOTAL, ARGMAX, D_OUT,
    D_Q, D_FQ, D_NUMERATOR, D_DENOMINATOR, D_MAXIMUM, DELTA, D_SINK_K, D_SINK_V,
    n, window, sinks, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, F: tl.constexpr,
    GROUP: tl.constexpr, BAND: tl.constexpr, SINKS: tl.constexpr, ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of what belongs to a row, and of the sinks, which rows far from them see."""
    block, batch, head = tl.program_id(0), tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    kv_head = head // (HEADS // KV_HEADS)
    start = tl.load(START + batch * (n // ROWS) + block)
    rows = block * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, D)
    row_index = (batch * n + rows) * HEADS + head
    q = tl.load(Q + row_index[:, None] * D + d[None, :])
    d_out = tl.load(D_OUT + row_index[:, None] * D + d[None, :])
    out = tl.load(OUT + row_index[:, None] * D + d[None, :])
    maximum = tl.load(MAXIMUM + row_index)
    share = 1 / tl.load(TOTAL + row_index)
    delta = tl.sum(out.to(tl.float32) * d_out.to(tl.float32), 1)
    tl.store(DELTA + row_index, delta)
    d_q = tl.zeros([ROWS, D], tl.float32)
    d_maximum = tl.zeros([ROWS], tl.float32)
    if F:
        f = tl.arange(0, F)
        d_fq = tl.zeros([ROWS, F], tl.float32)
        tl.store(
            D_NUMERATOR + row_index[:, None] * D + d[None, :], d_out.to(tl.float32) * share[:, None]
        )
        tl.store(D_DENOMINATOR + row_index, -delta * share)
    first = _first_column(start, block * ROWS, window, GROUP, BAND, ROWS)

    for column in range(first, block * ROWS + ROWS, ROWS):
        columns = column + tl.arange(0, ROWS)
        column_index = (batch * n + columns) * KV_HEADS + kv_head
        v = tl.load(V + column_index[:, None] * D + d[None, :])
        distance = rows[:, None] - columns[None, :]
        near = _is_near(start, rows[:, None], columns[None, :], GROUP, BAND, ROWS)
        is_sink = (columns < start + sinks)[None, :] & (distance >= 0)
        is_local = (near & (distance < window)) | is_sink
        has_local, has_linear = _tile_kinds(
            start, block * ROWS, column, window, sinks, F, ROWS
        )  # fmt: skip
        d_weight = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
        d_weight = (d_weight - delta[:, None]) * share[:, None]
        if has_local:
            k = tl.load(K + column_index[:, None] * D + d[None, :])
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            e = tl.where(is_local, tl.exp(s - maximum[:, None]), 0.0)
            d_s = e * d_weight
            d_maximum -= tl.sum(d_s, 1)
            d_q += tl.dot(d_s.to(k.dtype), k, input_precision=PRECISION)
        if F:  # noqa: SIM102 (one is known when compiling, one when running)
            if has_linear:
                fk = tl.load(FK + column_index[:, None] * F + f[None, :])
                d_u = tl.where(near & (is_local == 0), d_weight, 0.0)
                d_fq += tl.dot(d_u.to(fk.dtype), fk, input_precision=PRECISION)

    if SINKS and first > start:
        columns = start + tl.arange(0, SINKS)
        column_index = (batch * n + columns) * KV_HEADS + kv_head
        k = tl.load(K + column_index[:, None] * D + d[None, :])
        v = tl.load(V + column_index[:, None] * D + d[None, :])
        is_sink = (columns < start + sinks)[None, :]
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        e = tl.where(is_sink, tl.exp(s - maximum[:, None]), 0.0)
        d_weight = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
        d_weight = (d_weight - delta[:, None]) * share[:, None]
        d_s = e * d_weight
        d_maximum -= tl.sum(d_s, 1)
        d_q += tl.dot(d_s.to(k.dtype), k, input_precision=PRECISION)
        if F:
            argmax = tl.load(ARGMAX + row_index)
            d_s += tl.where(columns[None, :] == argmax[:, None], d_maximum[:, None], 0.0)
        d_k = tl.dot(tl.trans(d_s.to(q.dtype)), q, input_precision=PRECISION) * scale
        weight = (e * share[:, None]).to(d_out.dtype)
        d_v = tl.dot(tl.trans(weight), d_out, input_precision=PRECISION)
        sink_index = (batch * (n // ROWS) + start // ROWS) * KV_HEADS + kv_head
        cell = (sink_index * SINKS + tl.arange(0, SINKS))[:, None] * D + d[None, :]
        tl.atomic_add(D_SINK_K + cell, d_k)
        tl.atomic_add(D_SINK_V + cell, d_v)

    if F:
        argmax = tl.load(ARGMAX + row_index)
        best = tl.load(K + ((batch * n + argmax) * KV_HEADS + kv_head)[:, None] * D + d[None, :])
        d_q += d_maximum[:, None] * best.to(tl.float32)
        tl.store(D_MAXIMUM + row_index, d_maximum)
        tl.store(D_FQ + row_index[:, None] * F + f[None, :], d_fq)
    tl.store(D_Q + row_index[:, None] * D + d[None, :], d_q * scale)


@triton.jit
def _backward_columns_kernel(
    Q, K, V, FQ, FK, START, MAXIMUM, TOTAL, ARGMAX, D_OUT, D_MAXIMUM, DELTA, D_K, D_V, D_FK,
    n, window, sinks, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, F: tl.constexpr,
    GROUP: tl.constexpr, BAND: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of what belongs to a column, from the rows whose band it is in. Tiles stand
    transposed: [columns, rows]."""
    block, batch, kv_head = (
        tl.program_id(0), tl.program_id(1) // KV_HEADS, tl.program_id(1) % KV_HEADS
    )  # fmt: skip
    start = tl.load(START + batch * (n // ROWS) + block)
    column = block * ROWS
    columns = column + tl.arange(0, ROWS)
    d = tl.arange(0, D)
    column_index = (batch * n + columns) * KV_HEADS + kv_head
    k = tl.load(K + column_index[:, None] * D + d[None, :])
    v = tl.load(V + column_index[:, None] * D + d[None, :])
    d_k = tl.zeros([ROWS, D], tl.float32)
    d_v = tl.zeros([ROWS, D], tl.float32)
    if F:
        f = tl.arange(0, F)
        fk = tl.load(FK + column_index[:, None] * F + f[None, :])
        d_fk = tl.zeros([ROWS, F], tl.float32)
    if BAND >= 0:
        last = start + (column + ROWS - 1 - start) // GROUP * GROUP + GROUP + BAND
    else:
        last = column + ROWS + window
    last = tl.minimum(last, n)

    for row in range(column, last, ROWS):
        row_start = tl.load(START + batch * (n // ROWS) + row // ROWS)
        first = _first_column(row_start, row, window, GROUP, BAND, ROWS)
        if row_start == start and first <= column:
            rows = row + tl.arange(0, ROWS)
            distance = rows[None, :] - columns[:, None]
            near = _is_near(start, rows[None, :], columns[:, None], GROUP, BAND, ROWS)
            is_sink = (columns < start + sinks)[:, None] & (distance >= 0)
            is_local = (near & (distance < window)) | is_sink
            has_local, has_linear = _tile_kinds(start, row, column, window, sinks, F, ROWS)
            for member in range(HEADS // KV_HEADS):
                head = kv_head * (HEADS // KV_HEADS) + member
                row_index = (batch * n + rows) * HEADS + head
                q = tl.load(Q + row_index[:, None] * D + d[None, :])
                d_out = tl.load(D_OUT + row_index[:, None] * D + d[None, :])
                maximum = tl.load(MAXIMUM + row_index)
                share = 1 / tl.load(TOTAL + row_index)
                delta = tl.load(DELTA + row_index)
                d_weight = tl.dot(v, tl.trans(d_out), input_precision=PRECISION)
                d_weight = (d_weight - delta[None, :]) * share[None, :]
                weight = tl.zeros([ROWS, ROWS], tl.float32)
                if has_local:
                    s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
                    weight = tl.where(is_local, tl.exp(s - maximum[None, :]), 0.0)
                    d_s = weight * d_weight
                    if F:
                        best = columns[:, None] == tl.load(ARGMAX + row_index)[None, :]
                        d_s += tl.where(best, tl.load(D_MAXIMUM + row_index)[None, :], 0.0)
                    d_k += tl.dot(d_s.to(q.dtype), q, input_precision=PRECISION)
                if F:  # noqa: SIM102 (one is known when compiling, one when running)
                    if has_linear:
                        fq = tl.load(FQ + row_index[:, None] * F + f[None, :])
                        u = tl.dot(fk, tl.trans(fq), input_precision=PRECISION)
                        is_linear = near & (is_local == 0)
                        weight += tl.where(is_linear, u, 0.0)
                        d_u = tl.where(is_linear, d_weight, 0.0)
                        d_fk += tl.dot(d_u.to(fq.dtype), fq, input_precision=PRECISION)
                weight = (weight * share[None, :]).to(d_out.dtype)
                d_v += tl.dot(weight, d_out, input_precision=PRECISION)

    tl.store(D_K + column_index[:, None] * D + d[None, :], d_k * scale)
    tl.store(D_V + column_index[:, None] * D + d[None, :], d_v)
    if F:
        tl.store(D_FK + column_index[:, None] * F + f[None, :], d_fk)


def _constants(q: torch.Tensor, k: torch.Tensor, fq: torch.Tensor, group: int, band: int) -> dict:
    return {
        "HEADS": q.shape[2], "KV_HEADS": k.shape[2], "D": q.shape[3],
        "F": fq.shape[3] if fq.dim() == 4 else 0, "GROUP": max(group, 1), "BAND": band,
        "ROWS": ROWS,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }  # fmt: skip


@torch.library.custom_op("treeline::banded_attention", mutates_args=())
def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, fq: torch.Tensor, fk: torch.Tensor,
    numerator: torch.Tensor, denominator: torch.Tensor, start: torch.Tensor,
    window: int, sinks: int, group: int, band: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    batch, n, heads, d = q.shape
    out = torch.empty_like(q)
    maximum = q.new_empty((batch, n, heads), dtype=torch.float32)
    total = torch.empty_like(maximum)
    argmax = torch.empty_like(maximum, dtype=torch.int32)
    _forward_kernel[(n // ROWS, batch * heads)](
        q, k, v, fq, fk, numerator, denominator, start, out, maximum, total, argmax,
        n, window, sinks, d**-0.5, **_constants(q, k, fq, group, band),
        SINKS=SINK_COLUMNS if sinks else 0, num_warps=_WARPS,
    )  # fmt: skip
    return out, maximum, total, argmax


@_forward.register_fake
def _(q, k, v, fq, fk, numerator, denominator, start, window, sinks, group, band):
    row = q.new_empty(q.shape[:3], dtype=torch.float32)
    return torch.empty_like(q), row, torch.empty_like(row), torch.empty_like(row, dtype=torch.int32)


@torch.library.custom_op("treeline::banded_attention_backward", mutates_args=())
def _backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, fq: torch.Tensor, fk: torch.Tensor,
    start: torch.Tensor, out: torch.Tensor, maximum: torch.Tensor, total: torch.Tensor,
    argmax: torch.Tensor, d_out: torch.Tensor, window: int, sinks: int, group: int, band: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
           torch.Tensor]:  # fmt: skip
    batch, n, heads, d = q.shape
    d_out = d_out.contiguous()
    d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
    d_fq, d_fk = torch.empty_like(fq), torch.empty_like(fk)
    mapped = fq.dim() == 4
    d_numerator = torch.empty_like(q) if mapped else q.new_empty(0)
    d_denominator = torch.empty_like(maximum) if mapped else maximum.new_empty(0)
    d_maximum, delta = torch.empty_like(maximum), torch.empty_like(maximum)
    sink_shape = (batch, n // ROWS, k.shape[2], SINK_COLUMNS if sinks else 0, d)
    d_sink_k = q.new_zeros(sink_shape, dtype=torch.float32)
    d_sink_v = torch.zeros_like(d_sink_k)
    constants = _constants(q, k, fq, group, band)
    _backward_rows_kernel[(n // ROWS, batch * heads)](
        q, k, v, fq, fk, start, out, maximum, total, argmax, d_out,
        d_q, d_fq, d_numerator, d_denominator, d_maximum, delta, d_sink_k, d_sink_v,
        n, window, sinks, d**-0.5, **constants, SINKS=sink_shape[3], num_warps=_WARPS,
    )  # fmt: skip
    _backward_columns_kernel[(n // ROWS, batch * k.shape[2])](
        q, k, v, fq, fk, start, maximum, total, argmax, d_out, d_maximum, delta, d_k, d_v, d_fk,
        n, window, sinks, d**-0.5, **constants, num_warps=_WARPS,
    )  # fmt: skip
    if sinks:
        for gradient, of_sinks in ((d_k, d_sink_k), (d_v, d_sink_v)):
            blocks = gradient.view(batch, n // ROWS, ROWS, *gradient.shape[2:])
            blocks[:, :, :SINK_COLUMNS] += of_sinks.transpose(2, 3).to(gradient.dtype)
    return d_q, d_k, d_v, d_fq, d_fk, d_numerator, d_denominator


@_backward.register_fake
def _(q, k, v, fq, fk, start, out, maximum, total, argmax, d_out, window, sinks, group, band):
    like = [torch.empty_like(x) for x in (q, k, v, fq, fk)]
    if fq.dim() != 4:
        return (*like, q.new_empty(0), maximum.new_empty(0))
    return (*like, torch.empty_like(q), torch.empty_like(maximum))


def _save_inputs(ctx, inputs, output):
    q, k, v, fq, fk, _, _, start, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, fq, fk, start, *output)


def _differentiate(ctx, d_out, *_):
    gradients = _backward(*ctx.saved_tensors, d_out, *ctx.settings)
    return (*gradients, None, None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save_inputs)


def window_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: torch.Tensor,
    window: int, sinks: int, group: int, lag: int,
) -> torch.Tensor:  # fmt: skip
    """Softmax over the last `window` rows, with a group size over those of the last `lag` groups
    alone, and over the document's first `sinks`; `start` [batch, n / 64], int32, is the row at
    which each block's document starts."""
    none = q.new_empty(0)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    band = (lag - 1) * group if group else -1
    return _forward(q, k, v, none, none, none, none, start, window, sinks, group, band)[0]


def joint_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, fq: torch.Tensor, fk: torch.Tensor,
    numerator: torch.Tensor, denominator: torch.Tensor, start: torch.Tensor,
    window: int, sinks: int, group: int, lag: int,
) -> torch.Tensor:  # fmt: skip
    """The whole formula above. fq holds the linear factor; denominator [batch, n, heads], fp32."""
    inputs = [x.contiguous() for x in (q, k, v, fq, fk, numerator, denominator)]
    return _forward(*inputs, start, window, sinks, group, (lag - 1) * group)[0]
