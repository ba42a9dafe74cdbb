#!/usr/bin/env python3
"""Times what others offer in place of Treeline's attention, on one NVIDIA GPU: a line a result.

    [PYTHONPATH=FOLDER] python3 kernels/bench/attention_peers.py [--only sdpa,tree_mask]

Measured are, beside the speed of a copy: torch's scaled_dot_product_attention (SDPA) over key-value
caches; a tree of 64 nodes by softmax with a mask, by two kernels and a merge, and by
flex_attention; the same tree as the code released with the linearized models computes it; one copy
of the state for each of the tree's candidates; and flash-linear-attention's kernels. Ours are timed
by //kernels/bench:cuda_kernels.

Needs torch (2.11 was used), about 40 GiB of GPU memory for the largest caches, and for
flash-linear-attention the packages fla-core (0.6.0 was used) and einops, installed or in FOLDER;
without them those measurements say that they failed, and the others run. `--device cpu` runs small
shapes, to see that the program works and that results agree with a plain computation: its times
mean nothing.

Shapes are those of LLaMA-2-7B: 32 heads of 128, 32 layers, bf16. Times are microseconds of one
layer inside a CUDA graph unless the line says otherwise: 24 calls, 6 where one takes over 2 ms,
over several sets of tensors in turn, together larger than the L2 cache; the median of 7 replays.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_DIM = 128
_LAYERS = 32
_FEATURES = 2 * _DIM  # Of a key, in the states.
_NODES = 64
_GROUP = 64
_TAPS = 32
_GIB = 1 << 30
_MIB = 1 << 20

# One call's arguments; a measurement goes through several sets of them in turn.
Arguments = Sequence[Tensor]
Sets = Sequence[Arguments]


# ---------------------------------------------------------------------------------- measuring


class Bench:
    """The device, the shapes that it is given, and its clocks."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device == "cuda"
        self.heads = 32 if self.cuda else 2
        self.dtype = torch.bfloat16 if self.cuda else torch.float32

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def random_sets(self, shapes: Sequence[Sequence[int]], set_bytes: int) -> list[list[Tensor]]:
        return [[self.random(*shape) for shape in shapes] for _ in range(self.num_sets(set_bytes))]

    def num_sets(self, set_bytes: int) -> int:
        """So many, 8 at most, that they exceed 256 MiB: the L2 cache does not hold them."""
        return min(8, 256 * _MIB // set_bytes + 1) if self.cuda else 1

    def cache_bytes(self, batch: int, rows: int) -> int:
        """Of one layer's keys and values in bf16."""
        return batch * rows * self.heads * _DIM * 4

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def clean(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info()[0] if self.cuda else 8 * _GIB

    def start_peak(self) -> int:
        """The bytes allocated now, with the peak reset to them; 0 on a CPU."""
        self.synchronize()
        self.clean()
        if not self.cuda:
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak_since(self, start: int) -> int:
        self.synchronize()
        return torch.cuda.max_memory_allocated() - start if self.cuda else 0

    def eager_time(self, fn: Callable[..., Any], sets: Sets, calls: int = 24) -> float:
        """Microseconds a call, launched from Python one after the other."""
        for arguments in sets:
            fn(*arguments)
        self.synchronize()

        def run() -> None:
            for i in range(calls):
                fn(*sets[i % len(sets)])

        return self._median_time(run, calls)

    def graph_time(self, fn: Callable[..., Any], sets: Sets) -> float:
        """Microseconds a call inside a CUDA graph; on a CPU, of plain calls."""
        if not self.cuda:
            return self.eager_time(fn, sets, calls=2)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for arguments in sets[:2]:
                fn(*arguments)
            begin, end = _events()
            begin.record()
            fn(*sets[-1])
            end.record()
            end.synchronize()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        calls = 24 if begin.elapsed_time(end) < 2 else 6
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(calls):
                fn(*sets[i % len(sets)])
        graph.replay()
        torch.cuda.synchronize()
        return self._median_time(graph.replay, calls)

    def measure(self, label: str, fn: Callable[..., Any], sets: Sets, *, note: str = "",
                eager: bool = False) -> float | None:
        """Times and prints one line; None where it failed."""
        try:
            us = (self.eager_time if eager else self.graph_time)(fn, sets)
        except Exception as error:  # What one kernel refuses, the next one may take.
            say(f"{label}: FAILED {brief(error)}")
            self.clean()
            return None
        say(f"{label}: {us:.1f} us a layer{note}")
        return us

    def _median_time(self, run: Callable[[], None], calls: int) -> float:
        times = []
        for _ in range(7):
            if self.cuda:
                begin, end = _events()
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1e3 / calls)
            else:
                start = time.perf_counter()
                run()
                times.append((time.perf_counter() - start) * 1e6 / calls)
        return statistics.median(times)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def say(line: str) -> None:
    print(line, flush=True)


def brief(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:160]


def difference(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).abs().max())


def all_layers_ms(us: float) -> float:
    return us * _LAYERS / 1e3


def measure_copy(bench: Bench) -> None:
    size = 2 * _GIB if bench.cuda else _MIB
    source = torch.empty(size, dtype=torch.uint8, device=bench.device).random_()
    us = bench.graph_time(lambda a, b: b.copy_(a), [(source, torch.empty_like(source))])
    say(f"copy bandwidth: {2 * size / us / 1e3:.0f} GB/s, read and written, {size // _MIB} MiB")


# --------------------------------------------------------------------------------------- SDPA


def measure_sdpa(bench: Bench) -> None:
    """Decode (1 query) and verification (64) over caches of so many tokens, smallest first."""
    lengths, batches = [512, 1024], [1, 8]
    if bench.cuda:
        lengths, batches = [512, 1024, 8192, 32768], [1, 8, 64, 256]
    cases = [(rows, batch) for rows in lengths for batch in batches if batch < 256 or rows <= 8192]
    for rows, batch in sorted(cases, key=lambda case: case[0] * case[1]):
        bench.clean()
        size = bench.cache_bytes(batch, rows)
        if size * 1.05 + 2 * _GIB > bench.free_bytes():
            say(f"sdpa kv {rows} batch {batch}: does not fit, {size / _GIB:.0f} GiB a layer")
            continue
        _measure_sdpa_case(bench, rows, batch)


def _measure_sdpa_case(bench: Bench, rows: int, batch: int) -> None:
    size = bench.cache_bytes(batch, rows)
    caches = bench.random_sets([(batch, bench.heads, rows, _DIM)] * 2, size)
    for name, queries in (("decode", 1), ("verify 64", _NODES)):
        if queries > 1 and batch > 64:
            continue
        sets = [(bench.random(batch, bench.heads, queries, _DIM), *cache) for cache in caches]
        times, errors = _sdpa_times(bench, sets)
        label = f"sdpa {name} kv {rows} batch {batch}"
        if times:
            us, backend = min(times)
            say(f"{label}: {us:.1f} us a layer ({backend}), "
                f"{size / us / 1e3:.0f} GB/s of the cache")
        else:
            say(f"{label}: FAILED {errors}")


def _sdpa_times(bench: Bench, sets: Sets) -> tuple[list[tuple[float, str]], list[str]]:
    """Of each kernel that takes the shape; and why the others do not."""
    backends = [SDPBackend.MATH]
    if bench.cuda:
        backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    times, errors = [], []
    for backend in backends:
        try:
            with sdpa_kernel(backend):
                us = bench.graph_time(
                    lambda q, k, v: F.scaled_dot_product_attention(q, k, v), sets)
        except Exception as error:
            errors.append(brief(error))
        else:
            times.append((us, _name(backend)))
    return times, errors


def _name(backend: SDPBackend) -> str:
    return backend.name.replace("_ATTENTION", "")


# ------------------------------------------------------------------- a tree, by softmax kernels

# The data of medusa/model/medusa_choices.py in github.com/FasterDecoding/Medusa (Apache-2.0): a
# path's ranks as digits. The same tree as in engine/speculative/draft_choices.cc.
_MC_SIM_7B_63 = """
    0 00 1 01 2 000 10 02 3 03 4 04 20 05 001 5 06 6 07 010 11 7 08 002 30 09 8 9 100 020 12 003 40
    21 004 005 0000 011 006 030 50 13 007 008 009 60 040 14 70 012 200 31 22 80 050 15 101 021 90
    060 0001 16 070
"""


class Tree(NamedTuple):
    """The 64 nodes: the root first, then by depth and rank."""

    depths: list[int]
    sees: Tensor  # [64, 64]: a node's ancestors and itself.
    path_lengths: list[int]  # Of the 42 paths from root to leaf, longest first.


@functools.cache
def tree() -> Tree:
    paths = ["", *sorted(_MC_SIM_7B_63.split(), key=lambda path: (len(path), path))]
    depths = [len(path) for path in paths]
    sees = torch.tensor([[path.startswith(other) for other in paths] for path in paths])
    inner = {path[:-1] for path in paths if path}
    lengths = [len(path) + 1 for path in paths if path not in inner]
    return Tree(depths, sees, sorted(lengths, reverse=True))


class TreeCase(NamedTuple):
    label: str
    rows: int  # Committed ones and the 64 nodes.
    bias: Tensor  # [batch, heads, 64, rows]: 0, or minus infinity where a node sees nothing.
    sets: Sets  # Queries, keys, values.
    small: bool  # Enough so for the plain computation to be held against it.

    def reference(self) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(*self.sets[0], attn_mask=self.bias)


def tree_cases(bench: Bench) -> Iterator[TreeCase]:
    sees = tree().sees.to(bench.device)
    for rows in (1024, 32768) if bench.cuda else (256,):
        bias = torch.zeros(1, 1, _NODES, rows, device=bench.device, dtype=bench.dtype)
        bias[..., rows - _NODES:].masked_fill_(~sees, float("-inf"))
        for batch in (1, 8):
            bench.clean()
            shapes = [(batch, bench.heads, n, _DIM) for n in (_NODES, rows, rows)]
            sets = bench.random_sets(shapes, bench.cache_bytes(batch, rows))
            yield TreeCase(f"tree kv {rows} batch {batch}", rows,
                           bias.expand(batch, bench.heads, _NODES, rows), sets,
                           small=rows * batch <= 8192)


def attend_with_lse(q: Tensor, k: Tensor, v: Tensor,
                    bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp: flash without a mask, memory-efficient with one."""
    if q.is_cuda and bias is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    if q.is_cuda:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[:2]
    scores = q @ k.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def tree_split(node_bias: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No mask over the committed rows, the ancestors' mask over the 64 nodes, and a merge."""
    committed = k.shape[2] - _NODES
    old, old_lse = attend_with_lse(q, k[:, :, :committed], v[:, :, :committed])
    new, new_lse = attend_with_lse(q, k[:, :, committed:], v[:, :, committed:], node_bias)
    old_share = torch.sigmoid(old_lse - new_lse[..., :_NODES])
    return torch.lerp(new, old, old_share.unsqueeze(-1).to(new.dtype))


def measure_tree_mask(bench: Bench) -> None:
    backends = [SDPBackend.MATH]
    if bench.cuda:
        backends = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    for case in tree_cases(bench):
        masked = functools.partial(F.scaled_dot_product_attention, attn_mask=case.bias)
        want = case.reference() if case.small else None
        for backend in backends:
            with sdpa_kernel(backend):
                bench.measure(f"{case.label} sdpa with a mask, {_name(backend)}", masked, case.sets)
        split = functools.partial(tree_split, case.bias[..., case.rows - _NODES:].contiguous())
        us = bench.measure(
            f"{case.label} split (flash over the cache, masked over the nodes, merged)", split,
            case.sets)
        if us and want is not None:
            say(f"{case.label} split: differs from math by "
                f"{difference(split(*case.sets[0]), want):.1e} "
                f"(values near {float(want.abs().max()):.1f})")


def visible_rows(sees: Tensor, committed: int) -> Callable[..., Tensor]:
    """flex_attention's mask: all committed rows, and a node's ancestors."""

    def visible(_batch: Tensor, _head: Tensor, node: Tensor, row: Tensor) -> Tensor:
        return (row < committed) | sees[node, (row - committed).clamp(min=0)]

    return visible


def measure_tree_flex(bench: Bench) -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.config.cache_size_limit = 64
    sees = tree().sees.to(bench.device)

    for case in tree_cases(bench):
        mask = create_block_mask(visible_rows(sees, case.rows - _NODES), None, None, _NODES,
                                 case.rows, device=bench.device)
        attend = torch.compile(flex_attention, dynamic=False) if bench.cuda else flex_attention
        flex = functools.partial(attend, block_mask=mask)
        us = bench.measure(f"{case.label} flex_attention", flex, case.sets)
        if us and case.small:
            say(f"{case.label} flex_attention: differs from math by "
                f"{difference(flex(*case.sets[0]), case.reference()):.1e}")


# ------------------------------------------------------------------- the released formulation


def conv_matrix(weights: Tensor, tree: Tree) -> Tensor:
    """Each node's taps over the last committed rows and its ancestors.

    weights: [heads, taps], newest first. Returns [heads, 64, taps - 1 + 64].
    """
    tail = _TAPS - 1
    matrix = weights.new_zeros(weights.shape[0], _NODES, tail + _NODES)
    for i, depth in enumerate(tree.depths):
        for row in range(depth, tail):
            matrix[:, i, row] = weights[:, depth + tail - row]
        for j in tree.sees[i].nonzero().flatten().tolist():
            matrix[:, i, tail + j] = weights[:, depth - tree.depths[j]]
    return matrix


def released(q: Tensor, new_k: Tensor, new_v: Tensor, cache_k: Tensor, cache_v: Tensor,
             additive_mask: Tensor, conv: Tensor, factor: Tensor) -> Tensor:
    """Verification as released, of a tree that crosses no group.

    Every step normalises the whole key cache, forms K^T V of every completed group, and their
    running sums, to use the last.

    q, new_k, new_v: [1, heads, 64, d]. Caches: [1, heads, committed + 64, d]; their last 64 rows
    are written here. additive_mask: [1, 1, 64, committed + 64]. conv: [1, heads, 64, 95].
    """
    rows = cache_k.shape[2]
    committed = rows - _NODES
    closed = committed - committed % _GROUP
    cache_k[:, :, committed:].copy_(new_k)
    cache_v[:, :, committed:].copy_(new_v)
    q = q / q.norm(dim=-1, keepdim=True)
    k = cache_k / cache_k.norm(dim=-1, keepdim=True)
    seen = (additive_mask >= 0).long()[0]
    scores = torch.relu(q @ k[:, :, closed:].mT) ** 2 * seen[..., closed:]
    out = scores @ cache_v[:, :, closed:]
    grouped_k, grouped_v = (x[:, :, :closed].unflatten(2, (closed // _GROUP, _GROUP))
                            for x in (k, cache_v))
    running = torch.cumsum(torch.einsum("bhgcs,bhgce->bhgse", grouped_k, grouped_v), dim=2)
    out = out + q @ running[:, :, -1] * factor
    return out + conv @ cache_v[:, :, rows - conv.shape[-1]:]


def released_cases(bench: Bench) -> Iterator[tuple[int, Sets]]:
    """Contexts, and sets of released()'s arguments."""
    sees = tree().sees.to(bench.device)
    for context in (1024, 32768) if bench.cuda else (256,):
        bench.clean()
        committed = context - _GROUP // 2  # Half a group stands open, on average.
        rows = committed + _NODES
        mask = torch.zeros(1, 1, _NODES, rows, device=bench.device, dtype=bench.dtype)
        mask[..., committed:].masked_fill_(~sees, torch.finfo(bench.dtype).min)
        weights = bench.random(bench.heads, _TAPS).cpu() * 0.05
        shared = (mask, conv_matrix(weights, tree()).to(bench.device)[None],
                  torch.full((1,), 0.4, device=bench.device, dtype=bench.dtype))
        shapes = [(1, bench.heads, n, _DIM) for n in (_NODES, _NODES, _NODES, rows, rows)]
        sets = bench.random_sets(shapes, bench.cache_bytes(1, committed))
        yield context, [[*tensors, *shared] for tensors in sets]


def measure_released(bench: Bench) -> None:
    for context, sets in released_cases(bench):
        for how in ("eager", "CUDA graph"):
            label = f"released formulation, tree of 64, context {context} batch 1, {how}"
            start = bench.start_peak()
            us = bench.measure(label, released, sets, eager=how == "eager")
            if us:
                say(f"{label}: {all_layers_ms(us):.2f} ms for 32 layers; "
                    f"{bench.peak_since(start) / _MIB:.0f} MiB at the peak beside the caches")


def measure_released_compiled(bench: Bench) -> None:
    for context, sets in released_cases(bench):
        compiled = torch.compile(released, dynamic=False) if bench.cuda else released
        us = bench.measure(f"released formulation, tree of 64, context {context} batch 1, "
                           "torch.compile in a CUDA graph", compiled, sets)
        if us:
            say(f"released formulation, torch.compile, context {context}: "
                f"{all_layers_ms(us):.2f} ms for 32 layers; differs from eager by "
                f"{difference(compiled(*sets[0]), released(*sets[0])):.1e}")


# -------------------------------------------------------------------- one state per candidate


def measure_candidate_copies(bench: Bench, state_mib: float) -> None:
    candidates = len(tree().path_lengths)
    layers = _LAYERS if bench.cuda else 2
    layer_bytes = int(state_mib * _MIB / _LAYERS) // 512 * 512 if bench.cuda else 1 << 16
    start, free = bench.start_peak(), bench.free_bytes()
    empty = functools.partial(torch.empty, dtype=torch.uint8, device=bench.device)
    one = [empty(1, layer_bytes).random_() for _ in range(layers)]
    single = bench.peak_since(start)
    many = [empty(candidates, layer_bytes) for _ in range(layers)]
    us = bench.measure(
        f"{candidates} states: copying our state of {layer_bytes / _MIB:.2f} MiB a layer to "
        f"{candidates} candidates", lambda a, b: b.copy_(a.expand_as(b)),
        list(zip(one, many, strict=True)))
    if us:
        say(f"{candidates} states: copies of 32 layers take {all_layers_ms(us):.2f} ms, "
            f"{candidates * layer_bytes / us / 1e3:.0f} GB/s written")
    say(f"{candidates} states: peak device memory of {candidates} copies, {layers} layers: "
        f"{(bench.peak_since(start) - single) / _MIB:.0f} MiB beside {single / _MIB:.0f} MiB of "
        f"the one state (driver: {(free - bench.free_bytes()) / _MIB:.0f} MiB less free)")


def candidate_steps(s: Tensor, z: Tensor, ring_k: Tensor, ring_v: Tensor, q: Tensor, k: Tensor,
                    v: Tensor, local_q: Tensor, local_k: Tensor, *, alive: list[int],
                    local: bool) -> list[Tensor]:
    """Tokens of all candidates in turn, depth by depth; a candidate's rows stop at its leaf.

    s: [candidates, heads, features, d], z: [candidates, heads, features], both fp32. ring_k,
    ring_v: [candidates, heads, window, d]. The others: [depth, candidates, heads, features or d].
    """
    outs = []
    for t, n in enumerate(alive):
        query, key, value = q[t, :n], k[t, :n], v[t, :n]
        s[:n].addcmul_(key.unsqueeze(-1), value.unsqueeze(-2))
        z[:n].add_(key)
        out = (query.unsqueeze(-2) @ s[:n]).squeeze(-2) / (query * z[:n]).sum(-1, keepdim=True)
        if local:
            ring_k[:n, :, t] = local_k[t, :n]
            ring_v[:n, :, t] = value
            out = out + F.scaled_dot_product_attention(
                local_q[t, :n].unsqueeze(2), ring_k[:n], ring_v[:n]).squeeze(2)
        outs.append(out)
    return outs


def candidate_tensors(bench: Bench, window: int = 128) -> tuple[list[Tensor], list[int]]:
    """candidate_steps()'s arguments, and how many candidates reach each depth."""
    lengths = tree().path_lengths
    count, depth = len(lengths), max(lengths)
    alive = [sum(length > t for length in lengths) for t in range(depth)]
    fp32 = functools.partial(bench.random, dtype=torch.float32)
    features = [fp32(depth, count, bench.heads, _FEATURES).softmax(-1) for _ in range(2)]
    rings = [bench.random(count, bench.heads, window, _DIM) for _ in range(2)]
    rows = [bench.random(depth, count, bench.heads, _DIM) for _ in range(3)]
    s = fp32(count, bench.heads, _FEATURES, _DIM)
    z = torch.full((count, bench.heads, _FEATURES), 4.0, device=bench.device)
    return [s, z, *rings, *features, *rows], alive


def measure_candidate_decode(bench: Bench) -> None:
    start = bench.start_peak()
    tensors, alive = candidate_tensors(bench)
    label = f"{alive[0]} states"
    for part, local in (("linear part only", False),
                        ("linear part and SDPA over each candidate's own 128 rows", True)):
        steps = functools.partial(candidate_steps, alive=alive, local=local)
        us = bench.measure(f"{label}: {sum(alive)} tokens in {len(alive)} steps (rows alive "
                           f"{alive}), plain torch, {part}", steps, [tensors])
        if us:
            say(f"{label}: the same, {part}: {all_layers_ms(us):.2f} ms for 32 layers")
    states = sum(tensor.nbytes for tensor in tensors[:4])
    say(f"{label}: {bench.peak_since(start) / _MIB:.0f} MiB at the peak for one layer, of which "
        f"states {states / _MIB:.0f}; all 32 layers' states {states * _LAYERS / _GIB:.2f} GiB")


# ---------------------------------------------------------------------- flash-linear-attention

_FLA_NOTE = " (linear attention only: no window, no convolution, no feature map)"


def fla_tensors(bench: Bench, batch: int, tokens: int, features: int) -> list[Tensor]:
    """Queries, keys, values and an fp32 state."""
    rows = [bench.random(batch, tokens, bench.heads, d) for d in (features, features, _DIM)]
    return [*rows, bench.random(batch, bench.heads, features, _DIM, dtype=torch.float32)]


def measure_fla_decode(bench: Bench) -> None:
    import fla
    from fla.ops.linear_attn import fused_recurrent_linear_attn
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    def linear(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return fused_recurrent_linear_attn(q, k, v, scale=1.0, initial_state=state,
                                           output_final_state=True)

    decay = torch.full((bench.heads,), -0.01, device=bench.device)

    def decaying(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return fused_recurrent_simple_gla(q, k, v, g_gamma=decay, scale=1.0, initial_state=state,
                                          output_final_state=True)

    say(f"fla-core {fla.__version__}")
    for features in (_FEATURES, _DIM):
        for batch in (1, 16, 64, 256):
            bench.clean()
            size = batch * bench.heads * features * _DIM * 4
            if size * 4.4 > bench.free_bytes():
                say(f"fla decode batch {batch}: does not fit")
                continue
            sets = [fla_tensors(bench, batch, 1, features) for _ in range(bench.num_sets(size))]
            label = f"decode batch {batch} state {features}x{_DIM} fp32"
            bench.measure(f"fla fused_recurrent_linear_attn {label}", linear, sets, note=_FLA_NOTE)
            if features == _FEATURES and batch in (1, 256):
                bench.measure(f"fla fused_recurrent_simple_gla {label}", decaying, sets,
                              note=_FLA_NOTE)
            if batch == 1:
                q, k, v, state = sets[0]
                got = linear(q, k, v, state)[0][:, 0]
                q, k, v = (x[:, 0].float() for x in (q, k, v))
                want = torch.einsum("bhk,bhkv->bhv", q,
                                    state + torch.einsum("bhk,bhv->bhkv", k, v))
                say(f"fla decode state {features}x{_DIM}: differs from einsum by "
                    f"{difference(got, want):.1e} (values near {float(want.abs().max()):.0f})")


def measure_fla_candidates(bench: Bench) -> None:
    from fla.ops.linear_attn import fused_recurrent_linear_attn

    lengths = tree().path_lengths
    sets = [fla_tensors(bench, len(lengths), max(lengths), _FEATURES) for _ in range(2)]
    bench.measure(
        f"fla {len(lengths)} states: fused_recurrent_linear_attn of {len(lengths)} candidates x "
        f"{max(lengths)} tokens, state {_FEATURES}x{_DIM} fp32, read once and written once",
        lambda q, k, v, state: fused_recurrent_linear_attn(
            q, k, v, scale=1.0, initial_state=state, output_final_state=True),
        sets, note=_FLA_NOTE)


def _limit_fla_tuning() -> None:
    """Leaves fla's state kernel fewer configurations: timing all of them takes too long."""
    from fla.ops.common import chunk_h

    tuner: Any = getattr(chunk_h.chunk_fwd_kernel_h, "fn", None)
    few = [config for config in getattr(tuner, "configs", [])
           if config.num_stages < 4 and (
               config.num_warps in (2, 4) or (
                   config.num_warps == 8
                   and config.kwargs.get("BK") == config.kwargs.get("BV") == 64))]
    if few:
        say(f"fla prefill: {len(few)} of {len(tuner.configs)} configurations of its state kernel "
            "are tried")
        tuner.configs = few


def measure_fla_prefill(bench: Bench) -> None:
    from fla.ops.linear_attn import chunk_linear_attn
    from fla.ops.simple_gla import chunk_simple_gla

    _limit_fla_tuning()
    linear = functools.partial(chunk_linear_attn, scale=1.0, normalize=False,
                               output_final_state=True)
    decaying = functools.partial(chunk_simple_gla, scale=1.0, output_final_state=True,
                                 g_gamma=torch.full((bench.heads,), -0.01, device=bench.device))
    for name, fn, features in (("chunk_linear_attn", linear, _DIM),
                               ("chunk_linear_attn", linear, _FEATURES),
                               ("chunk_simple_gla", decaying, _DIM)):
        for tokens in (2048, 8192):
            bench.clean()
            shapes = [(1, tokens, bench.heads, d) for d in (features, features, _DIM)]
            sets = [[x / x.shape[-1] ** 0.5 for x in tensors] for tensors in
                    bench.random_sets(shapes, tokens * bench.heads * _DIM * 6)]
            bench.measure(f"fla {name} prefill {tokens} tokens batch 1, features {features}", fn,
                          sets, note=_FLA_NOTE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--state-mib", type=float, default=259,
                        help="a state of ours, all 32 layers, that is copied (default: 259)")
    # What compiles comes last.
    measurements: dict[str, Callable[[Bench], None]] = {
        "copy": measure_copy,
        "released": measure_released,
        "tree_mask": measure_tree_mask,
        "candidate_copies": lambda bench: measure_candidate_copies(bench, args.state_mib),
        "candidate_decode": measure_candidate_decode,
        "sdpa": measure_sdpa,
        "fla_decode": measure_fla_decode,
        "fla_candidates": measure_fla_candidates,
        "tree_flex": measure_tree_flex,
        "fla_prefill": measure_fla_prefill,
        "released_compiled": measure_released_compiled,
    }
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(measurements),
                        metavar="NAME,NAME", help=f"of {', '.join(measurements)}")
    args = parser.parse_args()
    if unknown := set(args.only) - set(measurements):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --device cpu tries the program")

    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    bench = Bench(args.device)
    if bench.cuda:
        properties = torch.cuda.get_device_properties(0)
        say(f"{properties.name}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
            f"{properties.total_memory / _GIB:.0f} GiB")
    for name, measure in measurements.items():
        if name not in args.only:
            continue
        try:
            measure(bench)
        except Exception as error:  # Such as fla's absence, or too little memory.
            say(f"{name}: FAILED {brief(error)}")
        bench.clean()


if __name__ == "__main__":
    main()
