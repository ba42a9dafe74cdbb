"""Tokenised text on disk, and training batches drawn from it.

A token set is two NumPy files: NAME.tokens.npy, the documents' tokens one after the other, and
NAME.offsets.npy, [documents + 1], where each starts.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

_ENCODE_BATCH = 64  # documents given to the tokenizer at once
_CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"


@dataclasses.dataclass(frozen=True)
class TokenSet:
    tokens: np.ndarray  # [tokens], uint16 or uint32
    offsets: np.ndarray  # [documents + 1]

    @classmethod
    def load(cls, folder: pathlib.Path, name: str) -> TokenSet:
        return cls(
            np.load(folder / f"{name}.tokens.npy", mmap_mode="r"),
            np.load(folder / f"{name}.offsets.npy"),
        )

    def save(self, folder: pathlib.Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.tokens.npy", self.tokens)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def tokenize(documents: Iterable[str], tokenizer_json: pathlib.Path) -> TokenSet:
    import tokenizers  # only this stage needs it

    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_json))
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    pieces: list[np.ndarray] = []
    for batch in _batches(documents, _ENCODE_BATCH):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        pieces.extend(np.array(encoding.ids, dtype) for encoding in encodings)
    pieces = [piece for piece in pieces if len(piece)]
    offsets = np.cumsum([0, *map(len, pieces)])
    return TokenSet(np.concatenate(pieces) if pieces else np.zeros(0, dtype), offsets)


def read_documents(path: pathlib.Path, system_prompt: str) -> Iterator[str]:
    """The documents of a .jsonl or .jsonl.zst file with `text` or `messages` in each record, or the
    whole of any other file. Dialogues are written in ChatML, with the system prompt where they
    have none; those that call functions are left out."""
    if ".jsonl" not in path.suffixes:
        yield path.read_text(encoding="utf-8")
        return
    for line in _lines(path):
        record = json.loads(line)
        if "text" in record:
            yield record["text"]
        elif not any(message.get("tool_calls") for message in record["messages"]):
            yield chat(record["messages"], system_prompt)


def chat(messages: Sequence[dict], system_prompt: str) -> str:
    if messages[0]["role"] != "system" and system_prompt:
        messages = [{"role": "system", "content": system_prompt}, *messages]
    return "".join(_CHATML.format(**message) for message in messages)


def _lines(path: pathlib.Path) -> Iterator[str]:
    if path.suffix != ".zst":
        yield from path.open(encoding="utf-8")
        return
    command = ["zstd", "-dc", "--long=27", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        yield from io.TextIOWrapper(process.stdout, encoding="utf-8", newline="\n")
    if process.returncode != 0:
        raise OSError(f"{path}: zstd failed with status {process.returncode}")


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of tokens that holds several documents. All arrays are [n]."""

    tokens: np.ndarray  # int64
    positions: np.ndarray  # int64, from 0 in each document
    is_text: np.ndarray  # bool; False where the space between two documents was filled

    @property
    def targets(self) -> np.ndarray:
        return np.roll(self.tokens, -1)

    @property
    def has_target(self) -> np.ndarray:
        """Where the next token is text of the same document."""
        following = np.roll(self.is_text & (self.positions > 0), -1)
        following[-1] = False
        return self.is_text & following


def pack(documents: Sequence[np.ndarray], row_tokens: int, align: int) -> Row:
    """Documents one after the other, each from a multiple of `align`; what does not fit is cut."""
    tokens, positions = np.zeros((2, row_tokens), np.int64)
    is_text = np.zeros(row_tokens, bool)
    at = 0
    for document in documents:
        length = min(len(document), row_tokens - at)
        end = min(at + -(-length // align) * align, row_tokens)
        tokens[at : at + length] = document[:length]
        positions[at:end] = np.arange(end - at)
        is_text[at : at + length] = True
        at = end
    positions[at:] = np.arange(row_tokens - at)
    return Row(tokens, positions, is_text)


def pack_all(documents: Sequence[np.ndarray], row_tokens: int, align: int) -> Iterator[
    tuple[Row, list[tuple[int, int]]]
]:  # fmt: skip
    """Rows that hold all documents uncut, in order; with each row, (document, where it starts)."""
    waiting: list[int] = []
    at, starts = 0, []
    for i, document in enumerate(documents):
        size = -(-len(document) // align) * align
        if size > row_tokens:
            raise ValueError(f"a document of {len(document)} tokens in rows of {row_tokens}")
        if at + size > row_tokens:
            yield pack([documents[j] for j in waiting], row_tokens, align), starts
            waiting, at, starts = [], 0, []
        waiting.append(i)
        starts.append((i, at))
        at += size
    if waiting:
        yield pack([documents[j] for j in waiting], row_tokens, align), starts


class Rows(Protocol):
    """Training rows, one for each step."""

    def row(self, step: int, max_length: int) -> Row: ...


class SameRow:
    """One row for every step, where a stage has read its text before."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def row(self, step: int, max_length: int) -> Row:
        return self._row


class Sampler:
    """Training rows. A row is a function of the seed and the step alone, so that training can be
    resumed and compared."""

    def __init__(
        self,
        sets: Sequence[tuple[TokenSet, float]],
        row_tokens: int,
        align: int,
        seed: int,
    ) -> None:
        """`sets` with their shares of the row; documents start at multiples of `align`."""
        self._sets = [token_set for token_set, _ in sets]
        shares = np.array([share for _, share in sets], np.float64)
        self._shares = shares / shares.sum()
        self._row_tokens, self._align, self._seed = row_tokens, align, seed

    def row(self, step: int, max_length: int) -> Row:
        """Whole documents, or random stretches of `max_length` tokens of longer ones."""
        rng = np.random.default_rng((self._seed, step))
        documents, used = [], 0
        filled = np.zeros(len(self._sets))
        while used < self._row_tokens:
            source = int(np.argmin(filled - self._shares * (used + 1) - rng.random() * 1e-6))
            document = self._draw(self._sets[source], rng, max_length)
            documents.append(document)
            size = -(-len(document) // self._align) * self._align
            filled[source] += size
            used += size
        order = rng.permutation(len(documents))
        return pack([documents[i] for i in order], self._row_tokens, self._align)

    def _draw(self, token_set: TokenSet, rng: np.random.Generator, max_length: int) -> np.ndarray:
        anywhere = rng.integers(len(token_set.tokens))  # so that long documents come more often
        document = int(np.searchsorted(token_set.offsets, anywhere, "right")) - 1
        begin, end = int(token_set.offsets[document]), int(token_set.offsets[document + 1])
        if end - begin > max_length:
            begin = int(rng.integers(begin, end - max_length + 1))
            end = begin + max_length
        return np.asarray(token_set.tokens[begin:end], np.int64)
