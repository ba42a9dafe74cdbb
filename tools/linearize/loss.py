"""Losses over a vocabulary, without keeping logits.

The gradient with respect to the logits is known in closed form, so one pass over a slice of rows
gives the loss and the gradient of the hidden states, and the slice's logits are gone again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

_SLICE_ROWS = 8192


class _KnownGradient(torch.autograd.Function):
    """`value`, whose gradient by `x` was worked out beside it."""

    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, d_value):
        (gradient,) = ctx.saved_tensors
        return gradient * d_value.to(gradient.dtype), None, None


def distillation_slice(
    hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    kl_weight: torch.Tensor,
    ce_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums [2] of KL(teacher, student) and cross-entropy, and the gradient of their sum by
    `hidden`. hidden [rows, size]; head [vocabulary, size]; targets and weights [rows]."""
    log_p = F.linear(hidden, head).float().log_softmax(-1)
    log_t = F.linear(teacher_hidden, head).float().log_softmax(-1)
    p, t = log_p.exp(), log_t.exp()
    kl = (t * (log_t - log_p)).sum(-1) @ kl_weight
    is_target = torch.arange(len(head), device=head.device) == targets[:, None]
    ce = -(log_p * is_target).sum(-1) @ ce_weight
    d_logits = kl_weight[:, None] * (p - t) + ce_weight[:, None] * (p - is_target.float())
    return torch.stack([kl, ce]), d_logits.to(hidden.dtype) @ head


def target_slice(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums [2] of cross-entropy and of hits by the likeliest token, and the gradient of
    the former by `hidden`."""
    log_p = F.linear(hidden, head).float().log_softmax(-1)
    is_target = torch.arange(len(head), device=head.device) == targets[:, None]
    ce = -(log_p * is_target).sum(-1) @ weight
    hits = (log_p.argmax(-1) == targets).float() @ weight
    d_logits = weight[:, None] * (log_p.exp() - is_target.float())
    return torch.stack([ce, hits]), d_logits.to(hidden.dtype) @ head


def distillation_loss(
    hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    kl_weight: torch.Tensor,
    ce_weight: torch.Tensor,
    function: Callable = distillation_slice,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, to be differentiated, and its two parts [2]. `function` is distillation_slice,
    compiled or not."""
    values, gradient = _in_slices(
        lambda rows: function(
            hidden.detach()[rows], teacher_hidden[rows], head, targets[rows], kl_weight[rows],
            ce_weight[rows],
        ),
        len(hidden),
    )  # fmt: skip
    return _KnownGradient.apply(hidden, values.sum(), gradient), values


def target_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor,
    function: Callable = target_slice,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy, to be differentiated, and the weighted sum of hits."""
    values, gradient = _in_slices(
        lambda rows: function(hidden.detach()[rows], head, targets[rows], weight[rows]),
        len(hidden),
    )
    return _KnownGradient.apply(hidden, values[0], gradient), values[1]


@torch.no_grad()
def _in_slices(function: Callable, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [function(slice(i, i + _SLICE_ROWS)) for i in range(0, rows, _SLICE_ROWS)]
    values, gradients = zip(*parts, strict=True)
    return torch.stack(values).sum(0), torch.cat(gradients)
