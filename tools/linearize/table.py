"""Results of `eval` as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """`results`: what `eval` wrote, by name. Perplexities, one row a name, and recall, one row a
    distance, where they were measured."""
    tables = [_perplexity(results), _recall(results)]
    return "\n".join("\n".join(table) + "\n" for table in tables if len(table) > 2)


def _perplexity(results: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    found = {name: _by_set(result) for name, result in results.items()}
    sets = list(dict.fromkeys(name for values in found.values() for name in values))
    lines = _head("form", sets)
    for name, values in found.items():
        cells = [_contexts(values.get(of_set, {})) for of_set in sets]
        if any(cells):
            lines.append(_line([name, *cells]))
    return lines


def _by_set(result: Mapping[str, Any]) -> Mapping[str, Mapping[int, float]]:
    """{set: {context: perplexity}} of the keys SET@CONTEXT."""
    found: dict[str, dict[int, float]] = {}
    for key, value in result.items():
        name, _, context = key.rpartition("@")
        if context.isdigit():
            found.setdefault(name, {})[int(context)] = value
    return found


def _contexts(values: Mapping[int, float]) -> str:
    return " / ".join(f"{values[context]:.2f}" for context in sorted(values))


def _recall(results: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    top1 = {
        (name, entry["distance"], entry["task"]): entry["top1"]
        for name, result in results.items()
        for entry in result.get("recall", [])
    }
    tasks = sorted({task for _, _, task in top1})
    names = [name for name in results if any(key[0] == name for key in top1)]
    lines = _head(f"distance: {', '.join(tasks)}", names)
    for distance in sorted({distance for _, distance, _ in top1}):
        values = ([top1.get((name, distance, task)) for task in tasks] for name in names)
        cells = [", ".join("-" if x is None else f"{x:.2f}" for x in group) for group in values]
        lines.append(_line([f"{distance:,}", *cells]))
    return lines


def _head(corner: str, columns: Sequence[str]) -> list[str]:
    return [_line([corner, *columns]), _line(["---"] * (len(columns) + 1))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
