"""docs/configuration.md is what proto/config.proto says now."""

from __future__ import annotations

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_configuration_reference as reference


def test_the_reference_is_current() -> None:
    assert reference.OUTPUT.read_text() == reference.reference(), (
        "run .venv/bin/python tools/make_configuration_reference.py")


def test_every_flag_of_the_definition_is_in_it() -> None:
    definition = (reference.REPOSITORY / "proto/config.proto").read_text()
    fields = re.findall(r"(?:optional|repeated) \w+ (\w+) = \d+ \[(?:[^\]]*)\(flag\)", definition)
    assert len(fields) > 40
    for field in fields:
        assert f"| `--{field.replace('_', '-')}` |" in reference.OUTPUT.read_text()


def test_every_row_has_four_cells() -> None:
    rows = [line for line in reference.OUTPUT.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 5, row
