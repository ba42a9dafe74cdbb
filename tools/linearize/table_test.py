"""Tables of results."""

from __future__ import annotations

import json
import pathlib

import pytest

pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize import __main__ as command_line  # noqa: E402


def test_one_row_a_form_and_one_a_distance(tmp_path: pathlib.Path, capsys) -> None:
    recall = [
        {"task": "kv", "distance": 4096, "nll": 0.1, "top1": 0.996},
        {"task": "copy", "distance": 4096, "nll": 0.1, "top1": 0.5},
        {"task": "copy", "distance": 0, "nll": 0.1, "top1": 0.25},
    ]
    texts = {"wikitext@8192": 18.5, "wikitext@1024": 24.236, "valid@1024": 28.0}
    files = {
        "parent": {**texts, "recall": recall, "heads@valid": [[0.5, 0.6]]},
        "ours": {"wikitext@1024": 24.0},
    }
    for name, result in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    paths = [str(tmp_path / f"{name}.json") for name in files]
    assert command_line.main(["table", *paths]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| form | wikitext | valid |",
        "| --- | --- | --- |",
        "| parent | 24.24 / 18.50 | 28.00 |",
        "| ours | 24.00 |  |",
        "",
        "| distance: copy, kv | parent |",
        "| --- | --- |",
        "| 0 | 0.25, - |",
        "| 4,096 | 0.50, 1.00 |",
    ]
