"""The chunked attention against the dense definition, values and gradients. Runs in Triton's
interpreter where there is no GPU."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch", reason="tools/linearize needs PyTorch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="the GPU kernels need Triton")

from linearize.attention import Attention  # noqa: E402
from linearize.form import Form  # noqa: E402

_JOINT = {
    "group_size": 64, "window": "sliding", "window_size": 64, "sinks": 4, "local": "softmax",
    "feature_map": "hedgehog", "denominator": "joint", "decay": "head", "conv_kernel": 63,
}  # fmt: skip
_LOCAL = {
    "group_size": 64, "window": "sliding", "window_size": 90, "sinks": 4, "local": "softmax",
    "feature_map": "none", "conv_kernel": 63,
}  # fmt: skip
_RELEASED = {
    "group_size": 64, "local": "relu2", "feature_map": "identity", "qk_norm": "l2",
    "alpha": "learned", "conv_kernel": 63,
}  # fmt: skip
_CASES = {
    "window of a group": _JOINT,
    "window of more": {**_JOINT, "window_size": 100, "sinks": 2},
    "window of a few": {**_JOINT, "window_size": 9, "sinks": 0, "decay": "none"},
    "group window": {**_JOINT, "window": "group", "feature_map": "relu", "decay": "none"},
    "local only": _LOCAL,
    "group window of more": {**_JOINT, "window": "group", "window_size": 128, "feature_size": 16},
    "group window, local only": {**_LOCAL, "window": "group", "window_size": 128},
    "groups smaller than a tile": {
        **_JOINT,
        "group_size": 32,
        "window": "group",
        "window_size": 128,
    },
    "the same, sliding": {**_JOINT, "group_size": 16, "window_size": 70},
    "the same, local only": {**_LOCAL, "group_size": 32, "window": "group", "window_size": 96},
    "softmax": {"group_size": 0, "local": "softmax", "feature_map": "none"},
    "released": _RELEASED,
    "released, decay": {**_RELEASED, "group_size": 32, "decay": "head", "alpha": 0.5},
    "released, local only": {**_RELEASED, "feature_map": "none", "alpha": None},
    "released, local softmax": {**_RELEASED, "local": "softmax"},
    "the same, wider, sinks": {
        **_RELEASED,
        "group_size": 32,
        "window_size": 96,
        "local": "softmax",
        "sinks": 3,
    },
    "laplace, a denominator": {
        "group_size": 64,
        "local": "laplace",
        "feature_map": "elu1",
        "denominator": "sum",
    },
    "linear only": {
        "group_size": 64,
        "local": "none",
        "feature_map": "relu",
        "denominator": "sum",
    },
}


@pytest.mark.parametrize("form", _CASES.values(), ids=_CASES.keys())
def test_chunked_is_dense(form) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    layer = Attention(Form(**form), heads=2, kv_heads=1, head_dim=16).to(device)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    assert layer.has_chunked_form()
    positions = torch.cat([torch.arange(n) for n in (128, 64, 192)])[None].to(device)
    qkv = [torch.randn(1, 384, heads, 16, device=device) for heads in (2, 1, 1)]
    wanted = torch.randn(1, 384, 2, 16, device=device)

    def evaluate(function) -> list:
        inputs = [x.clone().requires_grad_() for x in qkv]
        output = function(*inputs, positions)
        parameters = list(layer.parameters())
        return [output, *torch.autograd.grad(output, [*inputs, *parameters], wanted)]

    for chunked, dense in zip(evaluate(layer.chunked), evaluate(layer.dense), strict=True):
        assert (chunked - dense).norm() <= 1e-3 * dense.norm()
