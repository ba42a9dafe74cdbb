"""generation.py against greedy decoding that computes everything anew for each token."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize import generation, model  # noqa: E402
from linearize.corpus import TokenSet  # noqa: E402

_CHECKPOINTS = pathlib.Path(__file__).parents[2] / "tests" / "testdata" / "checkpoints"
_LENGTH = 60


def _greedy(subject: model.Model, text: np.ndarray, stop: int) -> list[int]:
    tokens = text.tolist()
    while len(tokens) < _LENGTH and (len(tokens) == len(text) or tokens[-1] != stop):
        row = torch.tensor(tokens)[None]
        with torch.no_grad():
            hidden = subject.hidden(row, torch.arange(len(tokens))[None])[0]
        tokens.append(int(subject.logits(hidden[-1:]).argmax()))
    return tokens


@pytest.mark.parametrize("name", ["softmax", "released_gqa", "window_narrower", "window_wider"])
def test_answers_are_the_models_own(name: str) -> None:
    subject = model.load(_CHECKPOINTS / name, None, torch.float32)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 288, n).astype(np.uint16) for n in (3, 20, 41, 9, 30)]
    stop = _greedy(subject, texts[1], -1)[30]
    got = list(generation.answers(subject, texts, _LENGTH, batch=2, stop=stop))
    expected = [_greedy(subject, text, stop) for text in texts]
    assert [tokens.tolist() for tokens in got] == expected
    assert len(expected[1]) < _LENGTH


def test_prompts_end_where_an_answer_begins() -> None:
    documents = [[1, 2, 7, 8, 3, 4, 7, 8, 5], [1, 1, 1, 1], [2, 7, 8, 9, 9, 9, 9, 9, 7, 8]]
    offsets = np.cumsum([0, *map(len, documents)])
    tokens = TokenSet(np.concatenate(documents).astype(np.uint16), offsets)
    found = {
        tuple(prompt.tolist())
        for seed in range(20)
        for prompt in generation.prompts(tokens, [7, 8], 8, seed)
    }
    assert found == {(1, 2, 7, 8), (1, 2, 7, 8, 3, 4, 7, 8), (2, 7, 8)}
