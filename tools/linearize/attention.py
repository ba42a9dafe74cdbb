"""One layer's trainable attention, for every form of docs/attention.md.

`dense` evaluates the definition with masks over all pairs of rows: any form, any device, memory
quadratic in the length. `chunked` computes the same function in time linear in the length for the
forms that `has_chunked_form` tells; a local softmax needs a GPU and Triton there.

Tensors are [batch, n, heads, d]. A batch row may hold several documents: `positions` [batch, n]
counts from 0 in each, and no document sees another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from linearize.form import Form

_MIN_DENOMINATOR = 1e-6
_MIN_SQUARED_NORM = 1e-12
_LAPLACE_MEAN = math.sqrt(0.5)
_LAPLACE_DEVIATION = math.sqrt(1 / (4 * math.pi))
_FIRST_FACTOR = 10.0  # of the linear terms in `joint`, for two features a dimension of the head
_FIRST_DECAY = (1.0, 5.0)  # before the sigmoid: half-lives of 2 to 100 groups
# banded_attention's ROWS and SINK_COLUMNS; it cannot be imported without Triton.
BLOCK_ROWS = 64
_MAX_SINKS = 16


class _Weight(nn.Module):
    """A tensor that a checkpoint calls NAME.weight."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value)


class Attention(nn.Module):
    """What the form adds to a layer. Parameters have the names that they have in a checkpoint,
    below self_attn."""

    def __init__(self, spec: Form, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.heads, self.kv_heads = heads, kv_heads
        if spec.feature_map == "hedgehog":
            first = _slowest_dimensions(head_dim, spec.features(head_dim) // 2)
            self.feature_map_q = _Weight(first.repeat(heads, 1, 1))
            self.feature_map_k = _Weight(first.repeat(kv_heads, 1, 1))
        if spec.denominator == "joint":
            factor = _FIRST_FACTOR * spec.features(head_dim) / (2 * head_dim)
            self.linear_factor = nn.Parameter(torch.full((heads,), math.log(factor)))
        if spec.decay == "head":
            self.decay = nn.Parameter(torch.linspace(*_FIRST_DECAY, kv_heads))
        if spec.alpha == "learned":
            self.global_factor = nn.Parameter(torch.zeros(1))
        if spec.conv_kernel:
            self.dwconv = _Weight(torch.zeros(heads, 1, spec.conv_kernel, 1))

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        if q.is_cuda and self.has_chunked_form():
            return self.chunked(q, k, v, positions)
        return self.dense(q, k, v, positions)

    def has_chunked_form(self) -> bool:
        spec = self.spec
        if spec.local == "softmax":
            # What left a sliding window and is not yet in S has a place in the joint sum alone.
            whole = spec.feature_map == "none" or spec.window == "group"
            fits = (whole or spec.denominator == "joint") and spec.sinks <= _MAX_SINKS
        else:
            fits = spec.window == "group" and spec.lag == 1 and spec.sinks == 0
        return fits and (spec.group_size % BLOCK_ROWS == 0 or BLOCK_ROWS % spec.group_size == 0)

    # The pieces.

    def taps(self) -> torch.Tensor:
        """[heads, taps]: the weight of the value so many rows ago."""
        return self.dwconv.weight[:, 0, : self.spec.conv_kernel // 2 + 1, 0].flip(1)

    def features(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k = self._normalised(q), self._normalised(k)
        if self.spec.feature_map != "hedgehog":
            return self._elementwise(q), self._elementwise(k)
        return _hedgehog(q, self.feature_map_q.weight), _hedgehog(k, self.feature_map_k.weight)

    def _elementwise(self, x: torch.Tensor) -> torch.Tensor:
        if self.spec.feature_map == "relu":
            return F.relu(x)
        return F.elu(x) + 1 if self.spec.feature_map == "elu1" else x

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        if self.spec.qk_norm == "none":
            return x
        squared = x.float().square().sum(-1, keepdim=True)
        return (x * squared.clamp_min(_MIN_SQUARED_NORM).rsqrt()).to(x.dtype)

    def _alpha(self) -> torch.Tensor | float:
        if self.spec.alpha == "learned":
            return self.global_factor
        return 1.0 if self.spec.alpha is None else self.spec.alpha

    # The definition.

    def dense(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        features = None if self.spec.feature_map == "none" else self.features(q, k)
        output = self.attend(q, k, v, features, *self.pairs(positions))
        for distance, tap in enumerate(self.taps().unbind(1) if self.spec.conv_kernel else ()):
            moved = F.pad(v, (0, 0, 0, 0, distance, 0))[:, : v.shape[1]]
            moved = moved * (positions >= distance)[..., None, None]
            moved = moved.repeat_interleave(self.heads // self.kv_heads, 2)
            output = output + tap[:, None].to(v.dtype) * moved
        return output

    def pairs(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The local set, [batch, 1, n, n], and what scales a linear term: the decay, and 0 outside
        the linear set, [batch, 1 or heads, n, n]."""
        local_set, linear_set = (mask[:, None] for mask in _sets(self.spec, positions))
        return local_set, self._decay_weights(positions) * linear_set

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        features: tuple[torch.Tensor, torch.Tensor] | None,
        local_set: torch.Tensor,
        linear_scale: torch.Tensor,
    ) -> torch.Tensor:
        """All but the convolution, for some rows of q over all of k and v. `features`: those of q
        and of k; the last two as `pairs` gives them, for the rows of q."""
        spec = self.spec
        local = self._local_weights(q, k, local_set)
        if features is None:
            linear = torch.zeros_like(local)
        else:
            linear = self._products(*features) * linear_scale
        if spec.denominator == "joint":
            weights = local + self.linear_factor.exp()[:, None, None] * linear
            weights = weights / weights.sum(-1, keepdim=True)
        else:
            if spec.local == "softmax":
                local = local / local.sum(-1, keepdim=True)
            if spec.denominator == "sum":
                linear = linear / linear.sum(-1, keepdim=True).clamp_min(_MIN_DENOMINATOR)
            weights = local + self._alpha() * linear
        return self._weighted(weights, v)

    def _weighted(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """[batch, rows, heads, d] from weights [batch, heads, rows, n]."""
        weights = weights.to(v.dtype).unflatten(1, (self.kv_heads, -1))
        return torch.einsum("bkrpj,bjkd->bpkrd", weights, v).flatten(2, 3)

    def _products(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """[batch, heads, rows of q, rows of k], in float32."""
        q = q.unflatten(2, (self.kv_heads, -1))
        return torch.einsum("bpkrd,bjkd->bkrpj", q, k).flatten(1, 2).float()

    def _local_weights(
        self, q: torch.Tensor, k: torch.Tensor, local_set: torch.Tensor
    ) -> torch.Tensor:
        """[batch, heads, rows, n]; for softmax the numerators, the local maximum subtracted."""
        spec = self.spec
        if spec.local == "none":
            return torch.zeros_like(local_set, dtype=torch.float32).expand(-1, self.heads, -1, -1)
        if spec.local == "relu2":
            q, k = self._normalised(q), self._normalised(k)
        scores = self._products(q, k)
        if spec.local == "softmax":
            scores = (scores * q.shape[-1] ** -0.5).masked_fill(~local_set, -math.inf)
            return (scores - scores.amax(-1, keepdim=True)).exp()
        if spec.local == "relu2":
            weights = F.relu(scores).square()
        else:
            scaled = (scores / spec.group_size - _LAPLACE_MEAN) / _LAPLACE_DEVIATION
            weights = 0.5 * (1 + torch.erf(scaled / math.sqrt(2)))
        return weights.masked_fill(~local_set, 0.0)

    def _decay_weights(self, positions: torch.Tensor) -> torch.Tensor:
        if self.spec.decay == "none":
            return torch.ones((), device=positions.device)
        group = positions // self.spec.group_size
        behind = (group[:, None, :, None] - self.spec.lag - group[:, None, None, :]).clamp_min(0)
        return self._decay_powers(behind).repeat_interleave(self.heads // self.kv_heads, 1)

    def _decay_powers(self, exponents: torch.Tensor) -> torch.Tensor:
        """[batch, kv_heads, ...] from exponents [batch, 1, ...]."""
        logarithm = F.logsigmoid(self.decay.float()).reshape(-1, *[1] * (exponents.dim() - 2))
        return torch.exp(logarithm * exponents)

    # The same, linear in the length.

    def chunked(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Documents must start at multiples of 64 and of the group size."""
        spec = self.spec
        if spec.denominator == "joint":
            output = self._joint(q, k, v, positions)
        else:
            softmax = spec.local == "softmax"
            output = self._softmax(q, k, v, positions) if softmax else self._own_group(q, k, v)
            if spec.feature_map != "none":
                output = output + self._linear(q, k, v, positions)
        if spec.conv_kernel:
            output = output + self._convolution(v, positions)
        return output

    def _joint(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        from linearize import banded_attention

        spec = self.spec
        fq, fk = self.features(q, k)
        fq = (fq * self.linear_factor.exp()[:, None]).to(q.dtype)
        numerator, denominator = self._folded(fq, fk, v, positions)
        return banded_attention.joint_attention(
            q, k, v, fq, fk, numerator, denominator, *self._windows(positions),
            spec.sinks, spec.group_size, spec.lag,
        )  # fmt: skip

    def _softmax(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """The local set alone."""
        from linearize import banded_attention

        spec = self.spec
        grouped = spec.window == "group" and spec.group_size > 0
        group, lag = (spec.group_size, spec.lag) if grouped else (0, 0)
        return banded_attention.window_attention(
            q, k, v, *self._windows(positions), spec.sinks, group, lag
        )

    def _windows(self, positions: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Where each block's document starts [batch, n / 64], and how many rows back are seen;
        of windows of groups all, as the kernel knows their bounds."""
        n = positions.shape[1]
        rows = torch.arange(n, device=positions.device, dtype=torch.int32)
        start = (rows - positions)[:, ::BLOCK_ROWS].to(torch.int32).contiguous()
        return start, self.spec.window_size if self.spec.window == "sliding" else n

    def _own_group(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The local set alone where it is the row's own group, weighted otherwise than by
        softmax."""
        g = self.spec.group_size
        grouped_q, grouped_k, grouped_v = (x.reshape(-1, g, *x.shape[2:]) for x in (q, k, v))
        ahead_or_self = torch.ones(1, 1, g, g, dtype=torch.bool, device=q.device).tril()
        weights = self._local_weights(grouped_q, grouped_k, ahead_or_self)
        return self._weighted(weights, grouped_v).reshape(q.shape)

    def _linear(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """The linear set of windows of whole groups, all of it in S, by its own denominator."""
        numerator, denominator = self._folded(*self.features(q, k), v, positions)
        if self.spec.denominator == "sum":
            numerator = numerator / denominator.clamp_min(_MIN_DENOMINATOR)[..., None]
        return (self._alpha() * numerator).to(v.dtype)

    def _folded(
        self, fq: torch.Tensor, fk: torch.Tensor, v: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What each row reads from S [batch, n, heads, d] and from z [batch, n, heads]."""
        spec, (batch, n, heads, features) = self.spec, fq.shape
        g, groups, kv_heads, d = spec.group_size, n // spec.group_size, self.kv_heads, v.shape[-1]
        fk = fk * (positions >= spec.sinks)[..., None, None]
        fk = fk.reshape(batch, groups, g, kv_heads, features)
        added = torch.einsum(
            "bcgkf,bcgkd->bkcfd", fk, v.reshape(batch, groups, g, kv_heads, d)
        ).float()
        added_z = fk.float().sum(2).transpose(1, 2)  # [batch, kv_heads, groups, features]
        weights = self._fold_weights(positions)
        s = torch.matmul(weights, added.reshape(batch, kv_heads, groups, features * d))
        z = torch.matmul(weights, added_z)
        fq = fq.reshape(batch, groups, g, kv_heads, heads // kv_heads, features)
        s = s.to(fq.dtype).reshape(batch, kv_heads, groups, features, d)
        numerator = torch.einsum("bcgkrf,bkcfd->bcgkrd", fq, s)
        denominator = (fq.float() * z.transpose(1, 2)[:, :, None, :, None]).sum(-1)
        return numerator.reshape(batch, n, heads, d), denominator.reshape(batch, n, heads)

    def _fold_weights(self, positions: torch.Tensor) -> torch.Tensor:
        """[batch, kv_heads, groups, groups]: the weight of a group in the state that another
        reads."""
        g = self.spec.group_size
        group = positions[:, ::g] // g
        index = torch.arange(group.shape[1], device=group.device)
        document = index - group
        behind = index[:, None] - self.spec.lag - index[None, :]
        seen = (behind >= 0) & (document[:, :, None] == document[:, None, :])
        if self.spec.decay == "none":
            return seen[:, None].float().expand(-1, self.kv_heads, -1, -1)
        powers = self._decay_powers(behind.clamp_min(0)[None, None])
        return powers * seen[:, None]

    def _convolution(self, v: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Banded Toeplitz products over each block of rows and the rows before it."""
        batch, n, kv_heads, d = v.shape
        g, taps = BLOCK_ROWS, self.taps()
        reach = taps.shape[1] - 1
        blocks = v.reshape(batch, n // g, g, kv_heads, d)
        if reach > g:
            raise ValueError(f"conv_kernel {self.spec.conv_kernel} reaches back over {g} rows")
        before = F.pad(blocks[:, :-1, g - reach :], (0, 0, 0, 0, 0, 0, 1, 0))
        inside = positions[:, ::g] > 0  # the block before is of the same document
        before = before * inside[..., None, None, None]
        extended = torch.cat([before, blocks], 2)
        row = torch.arange(g, device=v.device)[:, None]
        column = torch.arange(g + reach, device=v.device)[None, :] - reach
        distance = row - column
        band = taps[:, distance.clamp(0, reach)] * ((distance >= 0) & (distance <= reach))
        band = band.to(v.dtype).reshape(kv_heads, self.heads // kv_heads * g, g + reach)
        # One product a KV head: [repeats * g, g + reach] x [g + reach, batch * blocks * d].
        columns = extended.permute(3, 2, 0, 1, 4).reshape(kv_heads, g + reach, -1)
        output = torch.bmm(band, columns)
        output = output.reshape(kv_heads, self.heads // kv_heads, g, batch, n // g, d)
        return output.permute(3, 4, 2, 0, 1, 5).reshape(batch, n, self.heads, d)


def _sets(spec: Form, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The local and the linear set of every row, as masks [batch, n, n]."""
    index = torch.arange(positions.shape[1], device=positions.device)
    document = index - positions
    distance = index[:, None] - index[None, :]
    visible = (document[:, :, None] == document[:, None, :]) & (distance >= 0)
    if spec.group_size == 0:
        return visible, torch.zeros_like(visible)
    if spec.window == "sliding":
        near = (distance < spec.window_size)[None]
    else:
        group = positions // spec.group_size
        near = group[:, :, None] - group[:, None, :] < spec.lag
    local_set = visible & (near | (positions < spec.sinks)[:, None, :])
    return local_set, visible & ~local_set


def _slowest_dimensions(head_dim: int, count: int) -> torch.Tensor:
    """[head_dim, count]: a selection of those that a rotation by the position turns least, which
    alone mean something far away."""
    if count % 2 or count > head_dim:
        raise ValueError(f"{2 * count} features of heads of {head_dim} dimensions")
    half = head_dim // 2
    first = half - count // 2
    kept = [*range(first, half), *range(half + first, head_dim)]
    return torch.eye(head_dim)[:, kept]


def _hedgehog(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """softmax of [x W, -x W], in float32; weight [heads, d, features / 2]."""
    y = torch.einsum("bnhd,hdf->bnhf", x, weight.to(x.dtype)).float()
    return torch.cat([y, -y], -1).softmax(-1).to(x.dtype)
