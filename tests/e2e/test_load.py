"""The tools of tests/load against a server with a tiny model: short forms of the runs in
docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

TOOLS = pathlib.Path(__file__).parents[1] / "load"


def run_tool(name: str, results: pathlib.Path, *args: str) -> dict:
    process = subprocess.run([sys.executable, str(TOOLS / name), "--binary",
                              os.environ["TREELINE_BIN"], "--json", str(results), *args],
                             capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(results.read_text())


def test_streams_lose_and_double_nothing(tmp_path: pathlib.Path) -> None:
    summary = run_tool("soak.py", tmp_path / "soak.json", "--streams", "100", "--duration", "5",
                       "--distinct", "20", "--slots", "40")
    assert summary["verified"] == summary["complete"] == summary["requests"] >= 100
    assert summary["mismatches"] == 0
    assert summary["slots_used_after"] == 0
    assert summary["fds"]["after"] <= summary["fds"]["before"]


def test_chaos_ends_as_documented(tmp_path: pathlib.Path) -> None:
    summary = run_tool("chaos.py", tmp_path / "chaos.json", "--actions", "300", "--restarts", "1",
                       "--kills", "1", "--seed", "7")
    assert summary["problems"] == []
    assert summary["outcomes"]["stream: complete"] > 10
    assert summary["outcomes"]["start: ready"] == 2


def test_a_plan_is_a_function_of_its_seed() -> None:
    sys.path.insert(0, str(TOOLS))
    import chaos

    def plan(seed: int) -> str:
        return chaos.digest(chaos.make_plan(1000, 10, 2, 1, seed))

    assert plan(1) == plan(1) != plan(2)
