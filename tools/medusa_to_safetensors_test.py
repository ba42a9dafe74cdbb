"""The conversion against the tensors that went in."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import medusa_to_safetensors  # noqa: E402
import safetensors_io  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_come_out_as_they_went_in(tmp_path: pathlib.Path, dtype: str) -> None:
    rng = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=rng).to(getattr(torch, dtype))
        for name, shape in [
            ("0.0.linear.weight", (4, 4)), ("0.0.linear.bias", (4,)), ("0.1.weight", (7, 4)),
        ]
    }  # fmt: skip
    torch.save(tensors, tmp_path / "medusa_lm_head.pt")
    names = medusa_to_safetensors.convert(
        tmp_path / "medusa_lm_head.pt", tmp_path / "heads.safetensors"
    )
    assert names == sorted(tensors)
    stored, _ = safetensors_io.load(tmp_path / "heads.safetensors")
    for name, tensor in tensors.items():
        assert np.array_equal(stored[name].astype(np.float32), tensor.float().numpy())


def test_code_in_a_pickle_is_not_run(tmp_path: pathlib.Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "touched",))

    torch.save({"0.0.linear.weight": Hostile()}, tmp_path / "heads.pt")
    with pytest.raises(Exception, match=r"(?i)(unsupported|weights)"):
        medusa_to_safetensors.convert(tmp_path / "heads.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "touched").exists()
