"""Token pairs against counts made one by one."""

from __future__ import annotations

import collections
import math
import pathlib

import numpy as np
import pytest

pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize import corpus, pairs  # noqa: E402


def test_scores_are_those_of_the_counts(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    vocab, lengths = 7, rng.integers(1, 30, 20)
    documents = [rng.integers(0, vocab, length) for length in lengths]
    text = corpus.TokenSet(np.concatenate(documents), np.cumsum([0, *lengths]))
    halves = [
        corpus.TokenSet(text.tokens[: text.offsets[9]], text.offsets[:10]),
        corpus.TokenSet(text.tokens[text.offsets[9] :], text.offsets[9:] - text.offsets[9]),
    ]
    seen = collections.Counter((a, b) for d in documents for a, b in zip(d, d[1:], strict=False))
    alone = collections.Counter(int(token) for d in documents for token in d)
    made = pairs.count(halves, vocab)
    made.save(tmp_path / "pairs.npz")
    made = pairs.Pairs.load(tmp_path / "pairs.npz")
    found = {}
    for a in range(vocab):
        seconds = made.seconds[made.starts[a] : made.starts[a + 1]]
        assert sorted(set(seconds)) == list(seconds)
        found.update({(a, b): s for b, s in zip(seconds, made.scores[made.starts[a] :])})
    assert set(found) == {pair for pair, times in seen.items() if times >= 2}
    total = sum(alone.values()) + 0.1 * vocab
    for (a, b), score in found.items():
        expected = 100 * (alone[b] + 0.1) / total
        assert score == pytest.approx(0.8 * math.log((seen[a, b] + expected) / expected), 1e-4)
