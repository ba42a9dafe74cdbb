"""The tools of tests/load against a server with a tiny model: short forms of the runs in
docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parents[1] / "load"
CHECKPOINTS = pathlib.Path(__file__).parents[1] / "testdata" / "checkpoints"
sys.path.insert(0, str(TOOLS))
import agreement  # noqa: E402  (tests/load is not a package)
import chaos  # noqa: E402
import together  # noqa: E402


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
    def plan(seed: int) -> str:
        return chaos.digest(chaos.make_plan(1000, 10, 2, 1, seed))

    assert plan(1) == plan(1) != plan(2)


def test_two_precisions_agree_but_where_tokens_are_about_as_likely(tmp_path: pathlib.Path) -> None:
    # By one kernel: which one is fastest, and so how products are rounded, is the machine's matter.
    summary = run_tool("agreement.py", tmp_path / "agreement.json",
                       "--model", str(CHECKPOINTS / "window_wider"),
                       "--text", str(TOOLS.parents[1] / "docs" / "attention.md"),
                       "--prompts", "5", "--tokens", "20:200",
                       "--candidate=--matmul-kernel fp32 --state-dtype bf16",
                       "--candidate=--matmul-kernel fp32 --dtype fp32")
    rounded, same = summary["results"]
    assert summary["prompts"] == [20, 36, 63, 112, 200]
    assert rounded["tokens"] == same["tokens"] == sum(summary["prompts"]) - 5
    assert 1e-4 < rounded["mean_difference"] < rounded["largest_difference"] < 0.1
    assert rounded["other_likeliest_beyond_differences"] == 0
    assert same["largest_difference"] == same["other_likeliest"] == 0


def test_an_unlikely_token_made_the_likeliest_is_counted() -> None:
    def positions(*tops: dict[str, float]) -> list[agreement.Position]:
        return [agreement.Position(top["a"], top) for top in tops]

    reference = positions({"a": -0.1, "b": -2.5}, {"a": -0.7, "b": -0.8}, {"a": -1.0, "b": -2.0})
    close = positions({"a": -0.2, "b": -2.4}, {"a": -0.8, "b": -0.7}, {"a": -1.1, "b": -1.8})
    found = agreement.compare(reference, close)
    assert (found["other_likeliest"], found["other_likeliest_beyond_differences"]) == (1, 0)
    assert found["largest_margin_where_other"] == pytest.approx(0.1)
    assert found["largest_difference"] == pytest.approx(0.1)
    assert found["largest_difference_of_likely_tokens"] == pytest.approx(0.2)
    other = positions({"a": -0.2, "b": -2.4}, {"a": -0.7, "b": -0.8}, {"a": -1.6, "b": -1.4})
    found = agreement.compare(reference, other)
    assert (found["other_likeliest"], found["other_likeliest_beyond_differences"]) == (1, 1)


def test_requests_bring_together_what_they_bring_alone(tmp_path: pathlib.Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"turns": [f"{'x' * i} and {i}?", "No."]}) + "\n"
                                 for i in range(12)))
    results = run_tool("together.py", tmp_path / "together.json",
                       "--model", str(CHECKPOINTS / "hybrid"), "--questions", str(questions),
                       "--streams", "12", "--output", "24", "--", "--prefix-cache-memory", "0")
    for name in ("alone", "alone again", "together", "together again"):
        assert results[name]["complete"] == 12
        assert results[name]["tokens"] == results["alone"]["tokens"] > 100
        assert results[name]["different_answers"] == 0


def test_a_different_answer_is_found_where_it_begins_to_differ() -> None:
    def answer(*tokens: str) -> together.Answer:
        return together.Answer(list(tokens), [{t: -0.5, "z": -0.75} for t in tokens], True)

    alone = [answer("a", "b", "c"), answer("a", "b"), answer("a", "b")]
    others = [answer("a", "x", "c"), answer("a", "b"), answer("a", "b", "c")]
    assert together.differences(alone, others) == [together.Difference(0, 1, 0.25),
                                                   together.Difference(2, 2, None)]
