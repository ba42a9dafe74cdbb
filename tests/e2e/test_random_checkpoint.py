"""Folders of tools/random_checkpoint.py are whole models: every tensor is there and none too many."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "random_checkpoint.py"
sys.path.insert(0, str(ROOT / "tools"))
import safetensors_io  # noqa: E402  (tools/ is not a package)

SHAPE = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 2000, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 512, "hidden_act": "silu",
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHIPPED = {
    "group_size": 8, "window": "group", "window_size": 16, "sinks": 4, "decay": "head",
    "local": "softmax", "feature_map": "hedgehog", "denominator": "joint", "conv_kernel": 7,
}  # fmt: skip
RELEASED = {
    "group_size": 8, "window": "group", "local": "relu2", "feature_map": "identity",
    "qk_norm": "l2", "denominator": "none", "alpha": "learned", "conv_kernel": 7,
}  # fmt: skip
LOCAL_ONLY = {"feature_map": "none", "feature_size": 0, "denominator": "none", "decay": "none"}
FORMS = {
    "softmax, tied": {"tie_word_embeddings": True},
    "shipped": {"linear_attention": SHIPPED},
    "released, biases": {"linear_attention": RELEASED, "attention_bias": True, "mlp_bias": True},
    "layers differ, qwen2": {
        "model_type": "qwen2",
        "linear_attention": {
            **SHIPPED, "feature_size": 6, "layers": [{"layers": [1], **LOCAL_ONLY}],
        },
    },
}


def make(folder: pathlib.Path, changes: dict, *args: str) -> pathlib.Path:
    config = folder / "shape.json"
    config.write_text(json.dumps(SHAPE | changes))
    result = subprocess.run([sys.executable, str(TOOL), str(config), str(folder / "model"), *args],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "model"


@pytest.mark.parametrize("form", FORMS)
def test_it_is_loaded_and_answers(form: str, tmp_path: pathlib.Path) -> None:
    model = make(tmp_path, FORMS[form], "--max-shard-gb", "0.001")
    index = json.loads((model / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    result = subprocess.run([os.environ["TREELINE_BIN"], "generate", "--model", str(model),
                             "--prompt", "a" * 40, "--max-tokens", "8", "--temperature", "0"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    if "tied" not in form:  # There an answer echoes its prompt.
        assert "#" in result.stdout  # Ids that text never becomes are shown by number.


def test_values_are_random_and_the_seeds_own(tmp_path: pathlib.Path) -> None:
    digests = []
    for i, seed in enumerate(("1", "1", "2")):
        folder = tmp_path / str(i)
        folder.mkdir()
        model = make(folder, FORMS["shipped"], "--seed", seed)
        data = (model / "model-00001-of-00001.safetensors").read_bytes()
        digests.append(hashlib.sha256(data).digest())
    assert digests[0] == digests[1] != digests[2]
    tensors, _ = safetensors_io.load(model / "model-00001-of-00001.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    matrix = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float64)
    assert abs(matrix.mean()) < 0.001 and matrix.std() == pytest.approx(0.02, rel=0.05)
    assert np.linalg.matrix_rank(matrix) == 256
    assert tensors["model.norm.weight"].astype(np.float64).mean() == pytest.approx(1, abs=0.01)
    assert not np.array_equal(matrix, tensors["model.layers.1.mlp.gate_proj.weight"])


def test_misuse_is_named(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "shape.json"
    for content, message in [("{}", "'vocab_size' is missing"), ("{", "shape.json"),
                             (json.dumps(SHAPE | {"vocab_size": 100}), "vocab_size is 100")]:
        config.write_text(content)
        result = subprocess.run([sys.executable, str(TOOL), str(config), str(tmp_path / "model")],
                                capture_output=True, text=True)
        assert result.returncode == 1
        assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "model").exists()
