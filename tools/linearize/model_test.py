"""model.py against the predictions of the float64 oracle for the checked-in checkpoints."""

from __future__ import annotations

import json
import pathlib

import pytest

torch = pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize import model  # noqa: E402

_CHECKPOINTS = pathlib.Path(__file__).parents[2] / "tests" / "testdata" / "checkpoints"
_NAMES = (
    "softmax", "released_mha", "released_gqa", "window_equal", "window_narrower", "window_wider",
)  # fmt: skip
_MAX_ERROR = 2e-5  # of log-probabilities, in float32


@pytest.mark.parametrize("name", _NAMES)
def test_predicts_as_the_oracle(name: str) -> None:
    subject = model.load(_CHECKPOINTS / name, None, torch.float32)
    oracle = json.loads((_CHECKPOINTS / name / "oracle.json").read_text(encoding="utf-8"))
    for prompt in oracle["prompts"]:
        tokens = torch.tensor(prompt["tokens"])[None]
        positions = torch.arange(tokens.shape[1])[None]
        with torch.no_grad():
            logits = subject.logits(subject.hidden(tokens, positions))[0]
        log_p = logits.log_softmax(-1)
        assert (log_p[-1] - torch.tensor(prompt["next_logprobs"])).abs().max() <= _MAX_ERROR
        if prompt["logprobs"]:
            given = log_p[:-1].gather(1, tokens[0, 1:, None])[:, 0]
            assert (given - torch.tensor(prompt["logprobs"])).abs().max() <= _MAX_ERROR


@pytest.mark.parametrize("name", _NAMES)
def test_logits_do_not_depend_on_later_tokens_or_other_documents(name: str) -> None:
    subject = model.load(_CHECKPOINTS / name, None, torch.float32)
    positions = torch.cat([torch.arange(48), torch.arange(48)])[None]
    torch.manual_seed(0)
    embedded = subject.embed(torch.randint(0, subject.config.vocab_size, (1, 96)))
    embedded.requires_grad_()
    x, rotation = embedded, subject.rotation(positions)
    for layer in subject.layers:
        x = layer(x, rotation, positions)
    logits = subject.logits(subject.norm(x))[0]
    for row in (0, 17, 47, 48, 80):
        (gradient,) = torch.autograd.grad(logits[row].square().sum(), embedded, retain_graph=True)
        begin = 0 if row < 48 else 48
        assert gradient[0, row].any()
        assert not gradient[0, row + 1 :].any()
        assert not gradient[0, :begin].any()


def test_a_fresh_update_changes_nothing() -> None:
    plain = model.load(_CHECKPOINTS / "softmax", None, torch.float32)
    adapted = model.load(_CHECKPOINTS / "softmax", None, torch.float32)
    adapted.add_lora(4, 8.0, model.PROJECTIONS, seed=0)
    tokens, positions = torch.arange(20)[None], torch.arange(20)[None]
    assert torch.equal(adapted.hidden(tokens, positions), plain.hidden(tokens, positions))
    assert len(adapted.trained()) == 2 * len(model.PROJECTIONS) * plain.config.num_layers


def test_a_missing_tensor_is_named(tmp_path: pathlib.Path) -> None:
    source = _CHECKPOINTS / "softmax"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    weights = model.read_weights(source)
    weights.pop("model.layers.1.mlp.up_proj.weight")
    model.safetensors_io.save(tmp_path / "model.safetensors", weights)
    with pytest.raises(ValueError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        model.load(tmp_path, None, torch.float32)
