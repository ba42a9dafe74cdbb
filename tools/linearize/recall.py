"""Recall probes: what a model still knows of something it read so many tokens ago.

`kv` states "The secret word of NAME is WORD.", goes on with ordinary text and asks for the word.
`copy` shows a passage of ordinary text, goes on and shows it again: all but its first tokens can
be copied. Distance is the number of tokens between; distance 0 stands for probes without the
statement or the first showing, which tell what can be guessed.

`practice` makes text to train on: other statements, names and words, and passages that come back,
many to a document.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from linearize.corpus import TokenSet

DISTANCES = (0, 256, 512, 1024, 2048, 4096, 7936)
_LEAD = 64  # tokens of ordinary text before the probe, so that sinks do not hold it
_PASSAGE, _CUE = 48, 16  # tokens of a copied passage; the first of them only lead in
_NAMES = (
    "Alice", "Robert", "Maria", "Henry", "Laura", "Peter", "Helen", "Frank", "Diana", "Oscar",
    "Julia", "Simon", "Clara", "Martin", "Emma", "Victor",
)  # fmt: skip
_WORDS = (
    "mountain", "river", "garden", "window", "bridge", "castle", "forest", "island", "lantern",
    "market", "orange", "pencil", "rabbit", "silver", "summer", "ticket", "valley", "village",
    "winter", "yellow", "butter", "camera", "dragon", "engine", "flower", "guitar", "hammer",
    "kitchen", "letter", "mirror", "needle", "ocean",
)  # fmt: skip

_PRACTICE_NAMES = (
    "Arthur", "Bella", "Carlos", "Dorothy", "Edward", "Fiona", "George", "Hannah", "Ivan", "Jane",
    "Kevin", "Louise", "Michael", "Nora", "Oliver", "Paula", "Quentin", "Rachel", "Samuel", "Tina",
    "Ursula", "Vincent", "Wendy", "Xavier", "Yvonne", "Zachary",
)  # fmt: skip
_PRACTICE_THINGS = (
    "The password of {} is", "The favourite animal of {} is", "{} lives in a town called",
    "The code name of {} is", "{} always carries a", "The brother of {} is called",
    "The answer of {} was", "{} works for a company called", "The key of {} opens the",
)  # fmt: skip
_PRACTICE_WORDS = (
    "apple", "arrow", "autumn", "badger", "basket", "blanket", "bottle", "candle", "carpet",
    "cherry", "circle", "copper", "cotton", "desert", "diamond", "eagle", "feather", "finger",
    "garlic", "ginger", "helmet", "honey", "jacket", "jungle", "kettle", "ladder", "lemon",
    "marble", "meadow", "monkey", "museum", "nickel", "onion", "oyster", "paper", "pepper",
    "planet", "pocket", "potato", "ribbon", "rocket", "saddle", "salmon", "shadow", "spider",
    "spring", "stone", "sugar", "temple", "thunder", "tiger", "tunnel", "turtle", "velvet",
    "violin", "walnut", "whistle", "willow", "wizard", "wolf",
)  # fmt: skip
_PRACTICE_PLAIN = (16, 160)  # tokens of ordinary text between two things that are or come back
_PRACTICE_PASSAGE = (24, 96)
_PRACTICE_NEAREST = 64  # tokens back that a passage is fetched from, at the least


@dataclasses.dataclass(frozen=True)
class Probes:
    documents: Sequence[np.ndarray]
    tasks: Sequence[str]
    distances: Sequence[int]
    answers: Sequence[tuple[int, int]]  # tokens [begin, end) of the document

    def save(self, path: pathlib.Path) -> None:
        about = {"tasks": list(self.tasks), "distances": list(self.distances),
                 "answers": [list(a) for a in self.answers],
                 "lengths": [len(d) for d in self.documents]}  # fmt: skip
        np.savez_compressed(path, tokens=np.concatenate(self.documents), about=json.dumps(about))

    @classmethod
    def load(cls, path: pathlib.Path) -> Probes:
        with np.load(path) as stored:
            about, tokens = json.loads(str(stored["about"])), stored["tokens"]
        documents = np.split(tokens, np.cumsum(about["lengths"])[:-1])
        answers = [tuple(answer) for answer in about["answers"]]
        return cls(documents, about["tasks"], about["distances"], answers)


def generate(
    encode: Callable[[str], Sequence[int]], filler: TokenSet, count: int, seed: int
) -> Probes:
    """`count` probes of each task at each distance; the same ones but for what lies between."""
    probes = Probes([], [], [], [])
    for distance in DISTANCES:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            _add(probes, "kv", distance, *_key_value(encode, filler, distance, rng))
            _add(probes, "copy", distance, *_copy(filler, distance, rng))
    return probes


def _add(probes: Probes, task: str, distance: int, parts: list[np.ndarray], answer: int) -> None:
    document = np.concatenate(parts)
    probes.documents.append(document)
    probes.tasks.append(task)
    probes.distances.append(distance)
    probes.answers.append((len(document) - answer, len(document)))


def _key_value(
    encode: Callable[[str], Sequence[int]], filler: TokenSet, distance: int,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], int]:  # fmt: skip
    name, word = str(rng.choice(_NAMES)), str(rng.choice(_WORDS))
    statement = np.array(encode(f"\nThe secret word of {name} is {word}.\n"), np.int64)
    question = np.array(encode(f"\nThe secret word of {name} is"), np.int64)
    answer = np.array(encode(f" {word}"), np.int64)
    text = _stretch(filler, _LEAD + max(DISTANCES), rng)
    between = text[_LEAD : _LEAD + max(distance, min(DISTANCES[1:]))]
    if distance == 0:
        statement = statement[:0]
    return [text[:_LEAD], statement, between, question, answer], len(answer)


def _copy(
    filler: TokenSet, distance: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], int]:
    passage = _stretch(filler, _PASSAGE, rng)
    text = _stretch(filler, _LEAD + max(DISTANCES), rng)
    between = text[_LEAD : _LEAD + max(distance, min(DISTANCES[1:]))]
    shown = passage[:0] if distance == 0 else passage
    return [text[:_LEAD], shown, between, passage], _PASSAGE - _CUE


def practice(
    encode: Callable[[str], Sequence[int]], filler: TokenSet, count: int, length: int, seed: int
) -> TokenSet:
    """`count` documents of `length` tokens."""
    rng = np.random.default_rng(seed)
    documents = [_practice_document(encode, filler, length, rng) for _ in range(count)]
    tokens = np.concatenate(documents).astype(filler.tokens.dtype)
    return TokenSet(tokens, np.arange(count + 1) * length)


def _practice_document(
    encode: Callable[[str], Sequence[int]], filler: TokenSet, length: int, rng: np.random.Generator
) -> np.ndarray:
    plain = _stretch(filler, length, rng)
    document, taken = np.zeros(0, np.int64), 0
    facts: list[str] = []
    while len(document) < length:
        size = int(rng.integers(*_PRACTICE_PLAIN))
        document = np.append(document, plain[taken : taken + size])
        taken += size
        kind = rng.choice(["state", "ask", "repeat"])
        if kind == "repeat" and len(document) > 2 * _PRACTICE_NEAREST:
            farthest, size = math.log(len(document)), rng.integers(*_PRACTICE_PASSAGE)
            back = int(math.exp(rng.uniform(math.log(_PRACTICE_NEAREST), farthest)))
            begin = len(document) - back
            document = np.append(document, document[begin : begin + size])
            continue
        if kind == "state" or not facts:
            name, thing = rng.choice(_PRACTICE_NAMES), rng.choice(_PRACTICE_THINGS)
            facts.append(f"{str(thing).format(name)} {rng.choice(_PRACTICE_WORDS)}.")
        fact = facts[-1] if kind == "state" else str(rng.choice(facts))
        document = np.append(document, np.array(encode(f"\n{fact}\n"), np.int64))
    return document[:length]


def _stretch(filler: TokenSet, length: int, rng: np.random.Generator) -> np.ndarray:
    """From within one document."""
    longest = np.flatnonzero(filler.lengths >= length)
    if len(longest) == 0:
        raise ValueError(f"the filler has no document of {length} tokens")
    document = int(rng.choice(longest))
    begin = int(rng.integers(filler.offsets[document], filler.offsets[document + 1] - length + 1))
    return np.asarray(filler.tokens[begin : begin + length], np.int64)
