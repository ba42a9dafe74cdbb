"""The binary's other commands."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess


def treeline(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([os.environ["TREELINE_BIN"], *args], capture_output=True, text=True,
                          timeout=300)


def test_generate() -> None:
    result = treeline("generate", "--model", os.environ["TREELINE_MODEL"], "--temperature", "0",
                      "--prompt", "What is the capital of France?")
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


def test_eval_counts_tokens(tmp_path: pathlib.Path) -> None:
    text = tmp_path / "text"
    text.write_text("One, two, three, four, five. " * 40)
    result = treeline("eval", "--model", os.environ["TREELINE_MODEL"], "--perplexity", str(text),
                      "--context", "64", "--json")
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["scored_tokens"] == 63 * measured["windows"]
    assert 1 < measured["perplexity"] < 20  # It repeats itself.


def test_inspect() -> None:
    result = treeline("inspect", "--model", os.environ["TREELINE_MODEL"], "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model_type"] == "llama"


def test_misuse_is_named() -> None:
    for args, message in [((), "usage: treeline"),
                          (("dance",), "unknown command 'dance'"),
                          (("serve",), "--model PATH is needed"),
                          (("serve", "--prot", "1"), "did you mean --port?"),
                          (("serve", "--model", "x", "--port", "y"), "--port: 'y'")]:
        result = treeline(*args)
        assert result.returncode == 2
        assert message in result.stderr


def test_a_missing_model_is_named(tmp_path: pathlib.Path) -> None:
    result = treeline("serve", "--port", "0", "--model", str(tmp_path / "none"))
    assert result.returncode == 1
    assert "none" in result.stderr


def test_a_damaged_model_is_named(tmp_path: pathlib.Path) -> None:
    source = pathlib.Path(__file__).parents[1] / "testdata" / "checkpoints" / "softmax"
    whole = (source / "model.safetensors").read_bytes()
    damaged = {
        "model.safetensors": [whole[:100], whole[:-1000], b"\xff" * 1000, b""],
        "config.json": [b"{", b"{}"],
        "tokenizer.json": [b"[]"],
    }
    for name, contents in damaged.items():
        for i, content in enumerate(contents):
            folder = tmp_path / f"{name}{i}"
            shutil.copytree(source, folder)
            (folder / name).write_bytes(content)
            result = treeline("serve", "--model", str(folder), "--port", "0")
            assert result.returncode == 1, result.stderr
            assert name in result.stderr
    for name in damaged:
        folder = tmp_path / f"no_{name}"
        shutil.copytree(source, folder)
        (folder / name).unlink()
        result = treeline("serve", "--model", str(folder), "--port", "0")
        assert result.returncode == 1
        assert name.split(".")[0] in result.stderr


def test_bench_measures_what_was_asked(tmp_path: pathlib.Path) -> None:
    results = tmp_path / "bench.json"
    result = treeline("bench", "--model", os.environ["TREELINE_MODEL"], "--prompt", "16",
                      "--output", "4", "--context", "0,32", "--sequences", "1,2", "--repeats", "1",
                      "--json", str(results))
    assert result.returncode == 0, result.stderr
    measured = json.loads(results.read_text())["results"]
    assert {(m["work"], m["context"], m["sequences"]) for m in measured} == {
        ("prefill", 0, 1), ("prefill", 32, 1),
        ("decode", 0, 1), ("decode", 0, 2), ("decode", 32, 1), ("decode", 32, 2)}
