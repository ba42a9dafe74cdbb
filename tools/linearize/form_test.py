"""Forms of layers."""

from __future__ import annotations

import json
import pathlib

import pytest

from linearize.form import Form, alignment

_LOCAL = {
    "group_size": 64, "window": "sliding", "window_size": 161, "sinks": 4, "local": "softmax",
    "feature_map": "none",
}  # fmt: skip
_S = {"feature_map": "hedgehog", "denominator": "joint", "decay": "head"}
_KV_HEADS, _HEAD_DIM = 3, 64
_ROW_BYTES = _KV_HEADS * 2 * _HEAD_DIM * 2  # K and V in bf16


def test_an_entry_changes_the_layers_it_names() -> None:
    block = {**_LOCAL, "layers": [{"layers": [1, 3], "window_size": 1000}, {"layers": [3], **_S}]}
    forms = Form.for_layers(block, 4)
    assert [form.window_size for form in forms] == [161, 1000, 161, 1000]
    assert [form.feature_map for form in forms] == ["none", "none", "none", "hedgehog"]
    assert forms[0] is forms[2]


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="there is no layer 4"):
        Form.for_layers({**_LOCAL, "layers": [{"layers": [4], "window_size": 9}]}, 4)
    with pytest.raises(ValueError, match="feature_size 32 with none"):
        Form(**_LOCAL, feature_size=32)
    with pytest.raises(ValueError, match="groups of 48 do not divide groups of 64"):
        alignment(Form.for_layers({**_LOCAL, "layers": [{"layers": [0], "group_size": 48}]}, 2))


def test_state_bytes() -> None:
    def size(**changes) -> int:
        return Form(**{**_LOCAL, **changes}).state_bytes(_KV_HEADS, _HEAD_DIM)

    assert size() == (161 + 4) * _ROW_BYTES
    assert size(window="group", window_size=128) == (128 + 4) * _ROW_BYTES
    folded = _KV_HEADS * 32 * (_HEAD_DIM + 1) * 4
    s = {**_S, "feature_size": 32}
    assert size(**s, window="group", window_size=128) == (128 + 4) * _ROW_BYTES + folded
    # A sliding window of 65 lies in two groups, and no row leaves before its whole group does.
    assert size(**s, window_size=65) == (128 + 4) * _ROW_BYTES + folded
    assert size(**_S, window_size=65) == (128 + 4) * _ROW_BYTES + 4 * folded


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("hybrid_s32", "hybrid_s32_control"),
        ("hybrid_s32_g32", "hybrid_s32_control"),
        ("hybrid_s64", "hybrid_s64_control"),
    ],
)
def test_a_control_has_the_bytes_of_its_form_within_a_row_a_layer(name: str, control: str) -> None:
    def size(name: str) -> int:
        path = pathlib.Path(__file__).parent / "forms" / f"{name}.json"
        forms = Form.for_layers(json.loads(path.read_text(encoding="utf-8")), 30)
        return sum(form.state_bytes(_KV_HEADS, _HEAD_DIM) for form in forms)

    assert 0 <= size(control) - size(name) < 30 * _ROW_BYTES
    assert size(control) <= 16 << 20
