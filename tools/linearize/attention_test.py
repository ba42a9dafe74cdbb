"""attention.py against the float64 oracle, and what no row may see."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize.attention import Attention  # noqa: E402
from linearize.form import Form  # noqa: E402
from oracle.attention import AttentionParameters, attention  # noqa: E402

_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 8
_SOFTMAX = {"group_size": 0, "local": "softmax", "feature_map": "none"}
_BEST = {
    "group_size": 8, "window": "sliding", "window_size": 8, "sinks": 3, "local": "softmax",
    "feature_map": "hedgehog", "denominator": "joint", "decay": "head", "conv_kernel": 7,
}  # fmt: skip
_RELEASED = {
    "group_size": 8, "local": "relu2", "feature_map": "identity", "qk_norm": "l2",
    "alpha": "learned", "conv_kernel": 15,
}  # fmt: skip
FORMS = {
    "softmax": _SOFTMAX,
    "best": _BEST,
    "wide window": {**_BEST, "window_size": 19},
    "narrow window": {**_BEST, "group_size": 16, "window_size": 5, "decay": "none"},
    "group window": {**_BEST, "window": "group", "feature_map": "relu", "qk_norm": "l2"},
    "group window of more": {**_BEST, "window": "group", "window_size": 24, "feature_size": 8},
    "group window, local only": {
        "group_size": 8,
        "window": "group",
        "window_size": 24,
        "sinks": 3,
        "local": "softmax",
        "feature_map": "none",
    },
    "few features": {**_BEST, "feature_size": 8},
    "elu1": {**_BEST, "feature_map": "elu1", "sinks": 0},
    "local only": {**_BEST, "feature_map": "none", "denominator": "none", "decay": "none"},
    "released": _RELEASED,
    "released, decay": {**_RELEASED, "decay": "head", "window": "sliding", "alpha": 0.5},
    "paper": {"group_size": 8, "local": "softmax", "feature_map": "identity", "alpha": "learned"},
    "sum": {"group_size": 8, "local": "softmax", "feature_map": "elu1", "denominator": "sum"},
    "laplace": {"group_size": 8, "local": "laplace", "feature_map": "identity"},
    "linear only": {"group_size": 8, "local": "none", "feature_map": "relu", "denominator": "sum"},
}
_each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def make_attention(form, seed: int = 0) -> Attention:
    """With parameters away from their first values."""
    torch.manual_seed(seed)
    layer = Attention(Form(**form), _HEADS, _KV_HEADS, _HEAD_DIM)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
            if parameter.numel() == 1:
                parameter += 0.5
    return layer


def draw_qkv(n: int) -> list:
    return [torch.randn(1, n, heads, _HEAD_DIM) for heads in (_HEADS, _KV_HEADS, _KV_HEADS)]


def _oracle_parameters(layer: Attention) -> AttentionParameters:
    values = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    alpha = 1.0 if layer.spec.alpha is None else layer.spec.alpha
    return AttentionParameters(
        alpha=values["global_factor"].item() if alpha == "learned" else alpha,
        taps=layer.taps().detach().double().numpy() if layer.spec.conv_kernel else None,
        feature_map_q=values.get("feature_map_q.weight"),
        feature_map_k=values.get("feature_map_k.weight"),
        linear_factor=values.get("linear_factor"),
        decay=1 / (1 + np.exp(-values["decay"])) if "decay" in values else None,
    )


@_each_form
def test_equals_the_oracle(form) -> None:
    layer, qkv = make_attention(form), draw_qkv(61)
    output = layer(*qkv, torch.arange(61)[None])[0].detach().numpy()
    expected = attention(layer.spec, _oracle_parameters(layer), *(x[0].numpy() for x in qkv))
    assert np.abs(output - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@_each_form
def test_a_document_is_as_if_alone(form) -> None:
    layer, qkv = make_attention(form), draw_qkv(64)
    alone = layer(*(x[:, 24:] for x in qkv), torch.arange(40)[None])
    positions = torch.cat([torch.arange(24), torch.arange(40)])[None]
    packed = layer(*qkv, positions)[:, 24:]
    assert torch.allclose(packed, alone, rtol=1e-4, atol=1e-5)


@_each_form
@pytest.mark.parametrize("row", [0, 5, 23, 24, 31, 40, 63])
def test_no_gradient_from_later_rows_or_other_documents(form, row: int) -> None:
    layer = make_attention(form)
    qkv = [x.requires_grad_() for x in draw_qkv(64)]
    positions = torch.cat([torch.arange(24), torch.arange(40)])[None]
    output = layer(*qkv, positions)[0, row]
    gradients = torch.autograd.grad(output.square().sum(), qkv, allow_unused=True)
    begin = 0 if row < 24 else 24
    for gradient in gradients:
        if gradient is not None:
            assert not gradient[0, row + 1 :].any()
            assert not gradient[0, :begin].any()
    if layer.spec.local != "none":
        assert gradients[2][0, row].any()


def test_the_linear_branch_reaches_far_rows() -> None:
    """So that the two tests above do not hold because nothing is seen at all."""
    layer = make_attention(_BEST)
    qkv = [x.requires_grad_() for x in draw_qkv(64)]
    output = layer(*qkv, torch.arange(64)[None])[0, 63]
    (gradient,) = torch.autograd.grad(output.sum(), qkv[2])
    assert gradient[0].abs().sum((1, 2)).min() > 0


_FORM_FILES = sorted((pathlib.Path(__file__).parent / "forms").rglob("*.json"))


@pytest.mark.parametrize("path", _FORM_FILES, ids=[path.stem for path in _FORM_FILES])
def test_forms_that_come_with_it_are_trained_in_linear_time(path: pathlib.Path) -> None:
    block = json.loads(path.read_text(encoding="utf-8"))
    for form in set(Form.for_layers(block, num_layers=30)):
        assert Attention(form, heads=9, kv_heads=3, head_dim=64).has_chunked_form()


def test_parameters_start_where_the_teacher_is_inside_the_window() -> None:
    layer = Attention(Form(**_BEST), _HEADS, _KV_HEADS, _HEAD_DIM)
    teacher = Attention(Form(**_SOFTMAX), _HEADS, _KV_HEADS, _HEAD_DIM)
    torch.manual_seed(0)
    qkv, positions = draw_qkv(8), torch.arange(8)[None]
    assert torch.allclose(layer(*qkv, positions), teacher(*qkv, positions), atol=1e-6)
    assert math.isclose(layer.linear_factor[0].exp().item(), 10.0, rel_tol=1e-6)
