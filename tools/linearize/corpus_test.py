"""Packing, sampling and recall probes."""

from __future__ import annotations

import numpy as np
import pytest

from linearize import corpus, recall


def _token_set(lengths: list[int], first: int = 0) -> corpus.TokenSet:
    tokens = np.arange(first, first + sum(lengths)).astype(np.uint16)
    return corpus.TokenSet(tokens, np.cumsum([0, *lengths]))


def test_pack_aligns_and_cuts() -> None:
    documents = [np.array([11, 12, 13, 14, 15]), np.array([21, 22]), np.array([31, 32, 33])]
    row = corpus.pack(documents, row_tokens=14, align=4)
    assert row.tokens.tolist() == [11, 12, 13, 14, 15, 0, 0, 0, 21, 22, 0, 0, 31, 32]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 0, 1]
    assert row.is_text.astype(int).tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    assert row.has_target.astype(int).tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert (row.targets[:4] == [12, 13, 14, 15]).all()


def test_pack_all_keeps_every_document_whole() -> None:
    documents = [np.full(length, i + 1) for i, length in enumerate([5, 9, 3, 16, 1])]
    seen = []
    for row, starts in corpus.pack_all(documents, row_tokens=16, align=4):
        for i, start in starts:
            assert start % 4 == 0
            assert (row.tokens[start : start + len(documents[i])] == documents[i]).all()
            assert row.positions[start] == 0
            seen.append(i)
    assert seen == [0, 1, 2, 3, 4]


def test_pack_all_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="17 tokens in rows of 16"):
        list(corpus.pack_all([np.zeros(17)], row_tokens=16, align=4))


def test_rows_are_a_function_of_the_step() -> None:
    sets = [(_token_set([40, 300, 7]), 0.5), (_token_set([90] * 5, first=1000), 0.5)]
    first, again = (corpus.Sampler(sets, 512, 16, seed=3) for _ in range(2))
    for step in (0, 7):
        assert (first.row(step, 64).tokens == again.row(step, 64).tokens).all()
    assert (first.row(0, 64).tokens != first.row(1, 64).tokens).any()


def test_rows_hold_stretches_of_single_documents_in_the_wanted_shares() -> None:
    sets = [(_token_set([40, 300, 7]), 0.25), (_token_set([90] * 5, first=1000), 0.75)]
    sampler = corpus.Sampler(sets, 4096, 16, seed=3)
    row = sampler.row(0, max_length=64)
    follows = row.has_target
    assert (row.targets[follows] == row.tokens[follows] + 1).all()  # documents count upwards
    assert row.positions[row.is_text].max() == 63
    share = (row.tokens[row.is_text] >= 1000).mean()
    assert 0.65 < share < 0.85


def test_tokens_survive_the_disk(tmp_path) -> None:
    _token_set([3, 4]).save(tmp_path, "some")
    loaded = corpus.TokenSet.load(tmp_path, "some")
    assert loaded.tokens.tolist() == list(range(7)) and loaded.lengths.tolist() == [3, 4]


def test_dialogues_are_written_in_chatml(tmp_path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "Hi"},'
        ' {"role": "assistant", "content": "Yo"}]}\n'
        '{"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}\n'
        '{"text": "plain"}\n',
        encoding="utf-8",
    )
    assert list(corpus.read_documents(path, "Be kind.")) == [
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYo<|im_end|>\n",
        "plain",
    ]


def test_probes_have_the_distance_that_they_name(tmp_path) -> None:
    filler = corpus.TokenSet(np.full(20_000, 7, np.uint16), np.array([0, 20_000]))
    words: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [words.setdefault(word, 100 + len(words)) for word in text.split()]

    probes = recall.generate(encode, filler, count=2, seed=0)
    probes.save(tmp_path / "probes.npz")
    probes = recall.Probes.load(tmp_path / "probes.npz")
    assert len(probes.documents) == 2 * 2 * len(recall.DISTANCES)
    for task, distance, answer, document in zip(
        probes.tasks, probes.distances, probes.answers, probes.documents, strict=True
    ):
        assert answer[1] == len(document)
        if task == "kv":
            statements = [i for i, token in enumerate(document) if token == words["secret"]]
            assert len(statements) == (1 if distance == 0 else 2)
            if distance:
                said = {k for k, v in words.items() if v in document.tolist()}
                word = next(k for k, v in words.items() if v == document[answer[0]])
                assert word + "." in said
                # From the end of the statement to the first token of the question.
                assert statements[1] - 1 - (statements[0] - 1 + 7) + 1 == distance + 1


def test_practice_repeats_and_asks_again() -> None:
    filler = corpus.TokenSet(np.arange(40_000, dtype=np.uint16), np.array([0, 40_000]))
    words: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [words.setdefault(word, 50_000 + len(words)) for word in text.split()]

    text = recall.practice(encode, filler, count=3, length=4000, seed=0)
    again = recall.practice(encode, filler, count=3, length=4000, seed=0)
    assert text.lengths.tolist() == [4000] * 3 and np.array_equal(text.tokens, again.tokens)
    for i in range(3):
        document = text.tokens[text.offsets[i] : text.offsets[i + 1]]
        plain = document[document < 50_000]  # every one of the filler's tokens is there once
        assert 0.1 < 1 - len(np.unique(plain)) / len(plain) < 0.6
        assert np.isin(document, list(words.values())).mean() > 0.02
