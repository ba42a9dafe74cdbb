"""Which tokens follow which, counted in a text: what draft heads, each of which guesses for a place
of its own, do not know of one another's guesses. The first head sees the token before its guess,
and needs no pairs.

A pair that was seen has a score, how much likelier its second token is after the first than by
itself, as a difference of logs up to a constant of the first token:

    score(a, b) = _TRUST * log((n(a, b) + _PRIOR * p(b)) / (_PRIOR * p(b)))

where n counts pairs and p is the share of a token in the text. A head knows some of it by itself.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from linearize.corpus import TokenSet

_PRIOR = 100.0  # how many tokens of a text without order a first token is taken to have seen
_TRUST = 0.8
_FEWEST = 2  # times that a pair was seen


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of first token a are those from starts[a] to starts[a + 1]; seconds ascend."""

    starts: np.ndarray  # [vocab + 1] int32
    seconds: np.ndarray  # [pairs] int32
    scores: np.ndarray  # [pairs] float32

    @classmethod
    def load(cls, file: pathlib.Path) -> Pairs:
        with np.load(file) as arrays:
            return cls(arrays["starts"], arrays["seconds"], arrays["scores"])

    def save(self, file: pathlib.Path) -> None:
        np.savez(file, **dataclasses.asdict(self))

    def tensors(self) -> dict[str, np.ndarray]:
        """As a file of heads holds them."""
        return {
            "pairs.starts": self.starts,
            "pairs.seconds": self.seconds,
            "pairs.scores": self.scores.astype(np.float16),
        }


def count(texts: Sequence[TokenSet], vocab: int) -> Pairs:
    """No pair spans two documents."""
    keys, alone = [], np.full(vocab, 0.1)  # so that no token is impossible
    for text in texts:
        tokens = np.asarray(text.tokens, np.int64)
        inside = np.ones(len(tokens), bool)
        inside[text.offsets[1:] - 1] = False
        first = np.flatnonzero(inside)
        keys.append(tokens[first] * vocab + tokens[first + 1])
        alone += np.bincount(tokens, minlength=vocab)
    pairs, seen = np.unique(np.concatenate(keys), return_counts=True)
    pairs, seen = pairs[seen >= _FEWEST], seen[seen >= _FEWEST]
    seconds = pairs % vocab
    expected = _PRIOR * alone[seconds] / alone.sum()
    scores = _TRUST * np.log((seen + expected) / expected)
    starts = np.searchsorted(pairs, np.arange(vocab + 1) * vocab)
    return Pairs(starts.astype(np.int32), seconds.astype(np.int32), scores.astype(np.float32))
