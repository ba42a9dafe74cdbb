"""Loss, training, resuming and export, on a tiny model."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tools/linearize needs PyTorch")

from linearize import __main__ as command_line  # noqa: E402
from linearize import corpus, export, loss, medusa, model, training  # noqa: E402
from oracle import model as oracle  # noqa: E402

_BASE = pathlib.Path(__file__).parents[2] / "tests" / "testdata" / "checkpoints" / "softmax"
_FORM = {
    "group_size": 8, "window": "sliding", "window_size": 8, "sinks": 2, "local": "softmax",
    "feature_map": "hedgehog", "denominator": "joint", "decay": "head", "conv_kernel": 7,
}  # fmt: skip


def test_loss_and_gradient_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    hidden, teacher = torch.randn(20, 6, requires_grad=True), torch.randn(20, 6)
    head, targets = torch.randn(11, 6), torch.randint(0, 11, (20,))
    kl_weight, ce_weight = torch.rand(20), torch.rand(20)
    log_p, log_t = ((x @ head.T).log_softmax(-1) for x in (hidden, teacher))
    kl = ((log_t.exp() * (log_t - log_p)).sum(-1) * kl_weight).sum()
    ce = (torch.nn.functional.nll_loss(log_p, targets, reduction="none") * ce_weight).sum()
    (expected,) = torch.autograd.grad(kl + ce, hidden)
    total, parts = loss.distillation_loss(hidden, teacher, head, targets, kl_weight, ce_weight)
    (gradient,) = torch.autograd.grad(total, hidden)
    assert torch.allclose(parts, torch.stack([kl, ce]), rtol=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_target_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(20, 6, requires_grad=True), torch.randn(11, 6)
    targets, weight = torch.randint(0, 11, (20,)), torch.rand(20)
    logits = hidden @ head.T
    ce = torch.nn.functional.cross_entropy(logits, targets, reduction="none") @ weight
    got, hits = loss.target_loss(hidden, head, targets, weight)
    gradients = [torch.autograd.grad(x, hidden, retain_graph=True)[0] for x in (got, ce)]
    assert torch.allclose(got, ce, rtol=1e-5)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)
    assert torch.allclose(hits, (logits.argmax(-1) == targets).float() @ weight)


def test_schedule() -> None:
    schedule = training.Schedule([training.Phase(30, 64), training.Phase(10, 256)])
    lengths = [schedule.max_length(step) for step in range(schedule.steps)]
    assert lengths == [64] * 30 + [256] * 10
    rates = [schedule.rate(step) for step in range(40)]
    assert rates[0] < rates[10] and rates[39] < 0.1 and max(rates) <= 1
    with pytest.raises(IndexError):
        schedule.max_length(40)


@pytest.fixture
def workplace(tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 90, 30)
    tokens = rng.integers(0, 288, lengths.sum()).astype(np.uint16)
    corpus.TokenSet(tokens, np.cumsum([0, *lengths])).save(tmp_path / "data", "some")
    corpus.TokenSet(tokens[:64], np.array([0, 64])).save(tmp_path / "data", "one")
    (tmp_path / "form.json").write_text(json.dumps(_FORM))
    return tmp_path


def _train(workplace: pathlib.Path, stage: str, run: str, *more: str) -> int:
    return command_line.main([
        stage, "--model", str(_BASE), "--data", str(workplace / "data"), "--mix", "some=1",
        "--attention", str(workplace / "form.json"), "--run", str(workplace / run),
        "--row-tokens", "256", "--lora-rank", "4", "--lora-alpha", "8", "--log-every", "1",
        "--device", "cpu", *more,
    ])  # fmt: skip


def _log(workplace: pathlib.Path, run: str, stage: str) -> list[dict]:
    lines = (workplace / run / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["stage"] == stage and "step" in record]


def test_both_stages_learn(workplace: pathlib.Path) -> None:
    """On rows that are all the same, so that the loss has no reason to rise."""
    same = ("--mix", "one=1", "--steps", "64:8")
    assert _train(workplace, "transfer", "run", *same) == 0
    assert _train(workplace, "distill", "run", *same) == 0
    errors = [record["error"] for record in _log(workplace, "run", "transfer")]
    kl = [record["kl"] for record in _log(workplace, "run", "distill")]
    assert errors[-1] < errors[0] and kl[-1] < kl[0]


def test_a_learned_alpha_is_fitted_in_small_steps(workplace: pathlib.Path) -> None:
    """Alone, and beside parameters whose gradients are far smaller."""
    form = {"group_size": 8, "local": "softmax", "feature_map": "identity", "qk_norm": "l2",
            "alpha": "learned"}  # fmt: skip
    (workplace / "form.json").write_text(json.dumps(form))
    same = ("--mix", "one=1", "--steps", "64:8")
    assert _train(workplace, "transfer", "run", *same) == 0
    assert _train(workplace, "distill", "run", *same) == 0
    errors = [record["error"] for record in _log(workplace, "run", "transfer")]
    kl = [record["kl"] for record in _log(workplace, "run", "distill")]
    assert errors[-1] < errors[0] and kl[-1] < kl[0]
    trained = command_line.Run.open(workplace / "run").trained(_BASE, torch.float32)
    alphas = [p.item() for p in trained.attention_parameters().values()]
    assert all(0 < abs(alpha) < 1e-3 for alpha in alphas)


def test_layers_of_several_forms_learn_and_are_restored(workplace: pathlib.Path) -> None:
    plain = {"feature_map": "none", "denominator": "none", "decay": "none", "conv_kernel": 0}
    block = {**_FORM, "layers": [{"layers": [1], "window_size": 40, **plain}]}
    (workplace / "form.json").write_text(json.dumps(block))
    assert _train(workplace, "transfer", "run", "--steps", "64:2") == 0
    assert _train(workplace, "distill", "run", "--mix", "one=1", "--steps", "64:8") == 0
    kl = [record["kl"] for record in _log(workplace, "run", "distill")]
    assert kl[-1] < kl[0]
    restored = command_line.Run.open(workplace / "run").trained(_BASE, torch.float32)
    assert [layer.self_attn.spec.window_size for layer in restored.layers][:2] == [8, 40]
    fitted = {int(name.split(".")[1]) for name in restored.attention_parameters()}
    assert fitted == set(range(len(restored.layers))) - {1}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(workplace: pathlib.Path) -> None:
    steps = ("--steps", "32:3,64:3")
    assert _train(workplace, "distill", "whole", *steps) == 0
    while not (records := _log(workplace, "cut", "distill") if (workplace / "cut").exists() else []
               ) or records[-1]["step"] < 6:  # fmt: skip
        assert _train(workplace, "distill", "cut", *steps, "--stop-after-s", "0") == 0
    whole, cut = (
        torch.load(workplace / run / "distill.pt")["parameters"] for run in ("whole", "cut")
    )
    assert len(_log(workplace, "cut", "distill")) == 6
    for name, value in whole.items():
        assert torch.equal(cut[name], value), name


def test_other_settings_are_refused(workplace: pathlib.Path, capsys) -> None:
    assert _train(workplace, "distill", "run", "--steps", "32:1") == 0
    assert _train(workplace, "distill", "run", "--steps", "32:2") == 1
    assert "was made with" in capsys.readouterr().err
    assert _train(workplace, "distill", "run", "--steps", "32:1", "--seed", "1") == 1
    assert "other settings" in capsys.readouterr().err


def test_exports_predict_as_what_was_trained(workplace: pathlib.Path) -> None:
    _train(workplace, "transfer", "run", "--steps", "64:3")
    _train(workplace, "distill", "run", "--steps", "64:4", "--rate", "1e-2")
    for kind in ("float32", "adapter"):
        assert command_line.main([
            "export", "--model", str(_BASE), "--run", str(workplace / "run"),
            "--out", str(workplace / kind), f"--{kind}",
        ]) == 0  # fmt: skip
    merged = workplace / "float32"
    trained = command_line.Run.open(workplace / "run").trained(_BASE, torch.float32)
    tokens = np.random.default_rng(1).integers(0, 288, 50).tolist()
    with torch.no_grad():
        hidden = trained.hidden(torch.tensor(tokens)[None], torch.arange(50)[None])
        log_p = trained.logits(hidden)[0].log_softmax(-1).numpy()
    expected = oracle.load(merged).log_probabilities(tokens)
    assert np.abs(log_p - expected).max() < 2e-5
    _check_adapter(workplace / "adapter", merged)


def test_medusa_heads_learn_and_are_exported(workplace: pathlib.Path) -> None:
    _train(workplace, "distill", "run", "--mix", "one=1", "--steps", "64:2")
    assert command_line.main([
        "medusa", "--model", str(_BASE), "--data", str(workplace / "data"), "--mix", "one=1",
        "--run", str(workplace / "run"), "--row-tokens", "256", "--steps", "64:30",
        "--rate", "1e-2", "--heads", "2", "--log-every", "1", "--device", "cpu",
    ]) == 0  # fmt: skip
    records = _log(workplace, "run", "medusa")
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["top1_1"] > records[0]["top1_1"]
    out = workplace / "out"
    assert command_line.main([
        "export", "--model", str(_BASE), "--run", str(workplace / "run"), "--out", str(out),
    ]) == 0  # fmt: skip
    assert command_line.main([
        "eval", "--model", str(_BASE), "--data", str(workplace / "data"), "--sets", "",
        "--head-sets", "one", "--run", str(workplace / "run"), "--row-tokens", "256",
        "--device", "cpu", "--out", str(workplace / "eval.json"),
    ]) == 0  # fmt: skip
    accuracy = json.loads((workplace / "eval.json").read_text())["heads@one"]
    # The same text as in every row of training; without dropout there.
    for k in (0, 1):
        assert accuracy[k][0] > records[-1][f"top1_{k}"] - 0.1
        assert accuracy[k] and sum(accuracy[k]) <= 1.0 + 1e-6
    tensors = model.safetensors_io.load(out / "medusa_lm_head.safetensors")[0]
    layers = ("linear.bias", "linear.weight", "res_connection.bias", "res_connection.weight")
    assert sorted(tensors) == [f"{k}.0.{layer}" for k in (0, 1) for layer in layers]
    config = json.loads((out / "medusa_config.json").read_text())
    assert config["medusa_num_heads"] == 2 and config["medusa_reads_drawn_token"] is True


def test_heads_start_from_those_of_another_run(workplace: pathlib.Path) -> None:
    for run in ("first", "second"):
        _train(workplace, "distill", run, "--steps", "64:1")
    common = (
        "medusa", "--model", str(_BASE), "--data", str(workplace / "data"), "--mix", "one=1",
        "--row-tokens", "256", "--device", "cpu", "--log-every", "1", "--rate", "1e-2",
    )  # fmt: skip
    first, second = str(workplace / "first"), str(workplace / "second")
    assert command_line.main([*common, "--run", first, "--steps", "64:30"]) == 0
    assert (
        command_line.main([*common, "--run", second, "--heads-from", first, "--steps", "64:1"]) == 0
    )
    trained, anew = _log(workplace, "first", "medusa"), _log(workplace, "second", "medusa")
    assert anew[0]["loss"] < trained[10]["loss"]


@pytest.mark.parametrize("kept", [(), ("--kept-rows", "2")])
def test_heads_go_on_as_if_they_had_not_stopped(workplace: pathlib.Path, kept: tuple) -> None:
    """Dropout and the choice of tokens included."""
    saved = []
    for run, stop in (("whole", ()), ("cut", ("--stop-after-s", "0"))):
        _train(workplace, "distill", run, "--mix", "one=1", "--steps", "64:1")
        for _ in range(6 if stop else 1):
            assert command_line.main([
                "medusa", "--model", str(_BASE), "--data", str(workplace / "data"), "--mix",
                "some=1", "--run", str(workplace / run), "--row-tokens", "256", "--steps", "64:6",
                "--rate", "1e-2", "--log-every", "1", "--device", "cpu", *kept, *stop,
            ]) == 0  # fmt: skip
        saved.append(torch.load(workplace / run / "medusa.pt")["parameters"])
    for name, value in saved[0].items():
        assert torch.equal(value, saved[1][name]), name
    assert len(_log(workplace, "cut", "medusa")) == 6


def test_heads_learn_from_kept_rows(workplace: pathlib.Path) -> None:
    _train(workplace, "distill", "run", "--mix", "one=1", "--steps", "64:1")
    assert command_line.main([
        "medusa", "--model", str(_BASE), "--data", str(workplace / "data"), "--mix", "one=1",
        "--run", str(workplace / "run"), "--row-tokens", "256", "--steps", "32:15,64:15",
        "--rate", "1e-2", "--kept-rows", "4", "--log-every", "1", "--device", "cpu",
    ]) == 0  # fmt: skip
    records = _log(workplace, "run", "medusa")
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(records[-1][f"top1_{k}"] > records[0][f"top1_{k}"] + 0.3 for k in range(4))


def test_examples_end_with_their_documents() -> None:
    base = model.load(_BASE, None, torch.float32).requires_grad_(False)
    tokens, positions = torch.arange(12) + 7, torch.tensor([*range(5), *range(7)])
    is_text = (torch.arange(12) < 10).float()
    read = medusa.read(base, tokens, positions, is_text, heads=2)
    choices = base.logits(read.hidden).argmax(-1)
    for row in (0, 2, 3, 5, 7, 8):
        assert read.drawn[row] == tokens[row + 1] and read.targets[row, 0] == choices[row + 1]
    for row in (0, 2, 5, 7):
        assert read.targets[row, 1] == choices[row + 2]
    ended = (read.targets == -1).nonzero().tolist()
    assert ended == [[3, 1], [4, 0], [4, 1], [8, 1], *([r, k] for r in (9, 10, 11) for k in (0, 1))]
    joined = medusa.Examples.join([read, read])
    assert joined.drawn.tolist() == 2 * tokens[[1, 2, 3, 4, 6, 7, 8, 9]].tolist()


def test_saved_heads_take_rows_of_the_embedding(tmp_path: pathlib.Path) -> None:
    """From the two files alone, in NumPy: A [h; E[x]] + c + SiLU(W [h; E[x]] + b)."""
    base = model.load(_BASE, None, torch.float32)
    size, scale = base.config.hidden_size, medusa.drawn_scale(base)
    assert 0.7 < scale * base.embed_tokens.weight.square().mean().sqrt() < 1.5 and scale != 1
    torch.manual_seed(0)
    heads = medusa.MedusaHeads(size, heads=2).eval()
    for parameter in heads.parameters():  # random, and what a file of bf16 can hold
        parameter.data = torch.randn(parameter.shape).bfloat16().float()
    hidden, tokens = torch.randn(9, size), torch.arange(30, 39)
    medusa.save(heads, scale, "base", tmp_path, None)
    file = model.safetensors_io.load(tmp_path / "medusa_lm_head.safetensors")[0]
    embedding = model.read_weights(_BASE)["model.embed_tokens.weight"]
    seen = np.concatenate([hidden.numpy(), embedding[tokens.numpy()]], 1).astype(np.float64)
    for k in (0, 1):
        with torch.no_grad():
            guess = heads.guess(k, hidden, base.embed(tokens) * scale).numpy()
        gate = seen @ file[f"{k}.0.linear.weight"].T + file[f"{k}.0.linear.bias"]
        straight = seen @ file[f"{k}.0.res_connection.weight"].T
        expected = straight + file[f"{k}.0.res_connection.bias"] + gate / (1 + np.exp(-gate))
        assert np.abs(guess - expected).max() < 1e-4 * np.abs(expected).max()


def test_blocks_see_the_drawn_token_and_begin_as_the_hidden_state() -> None:
    torch.manual_seed(0)
    heads, hidden, drawn = medusa.MedusaHeads(4, heads=1), torch.randn(5, 4), torch.randn(5, 4)
    assert torch.equal(heads.guess(0, hidden, drawn), hidden)  # in training, too
    for parameter in heads.parameters():
        parameter.data.normal_()
    assert not torch.equal(heads.guess(0, hidden, drawn), heads.guess(0, hidden, drawn))
    heads.eval()
    guess = heads.guess(0, hidden, drawn)
    assert torch.equal(guess, heads.guess(0, hidden, drawn))
    assert not torch.allclose(guess, heads.guess(0, hidden, drawn.roll(1, 0)))


def test_pairs_are_exported_beside_the_heads(workplace: pathlib.Path) -> None:
    _train(workplace, "distill", "run", "--mix", "one=1", "--steps", "64:1")
    common = ["--model", str(_BASE), "--run", str(workplace / "run")]
    data = ["--data", str(workplace / "data")]
    assert command_line.main([
        "medusa", *common, *data, "--mix", "one=1", "--row-tokens", "256", "--steps", "64:1",
        "--heads", "1", "--device", "cpu",
    ]) == 0  # fmt: skip
    assert command_line.main(["pairs", *common, *data, "--sets", "some,one"]) == 0
    assert command_line.main(["export", *common, "--out", str(workplace / "out")]) == 0
    tensors = model.safetensors_io.load(workplace / "out" / "medusa_lm_head.safetensors")[0]
    assert sorted(tensors) == [
        "0.0.linear.bias", "0.0.linear.weight", "0.0.res_connection.bias",
        "0.0.res_connection.weight", "pairs.scores", "pairs.seconds", "pairs.starts",
    ]  # fmt: skip
    assert tensors["pairs.starts"].dtype == tensors["pairs.seconds"].dtype == np.int32
    assert len(tensors["pairs.starts"]) == 289 and tensors["pairs.starts"][-1] > 0


def test_speed_needs_a_shape_alone(workplace: pathlib.Path) -> None:
    if not hasattr(torch.device("cpu"), "__enter__"):
        pytest.skip("needs PyTorch 2")
    shape = workplace / "shape"
    shape.mkdir()
    (shape / "config.json").write_text((_BASE / "config.json").read_text())
    assert command_line.main([
        "speed", "--model", str(shape), "--attention", str(workplace / "form.json"),
        "--attention-lengths", "128", "--steps", "64:2,128:2", "--row-tokens", "256",
        "--lora-rank", "4", "--checkpointing", "--device", "cpu",
        "--out", str(workplace / "speed.jsonl"),
    ]) == 0  # fmt: skip
    records = [json.loads(line) for line in (workplace / "speed.jsonl").read_text().splitlines()]
    attention = [record for record in records if "attention" in record]
    assert [record["length"] for record in attention] == [128, 128]
    ratio = attention[0]["ms"] / attention[1]["ms"]
    assert attention[1]["speedup"] == pytest.approx(ratio, abs=1e-3)
    steps = [record for record in records if record.get("stage") == "distill"]
    assert steps[-1]["step"] == 4 and steps[-1]["tokens_s"] > 0


def test_medusa_heads_guess_within_their_document() -> None:
    """Head k's row t is judged by the choice at t + k + 1; a row without one does not count."""
    heads = medusa.MedusaHeads(4, heads=2).eval()
    hidden = torch.eye(8)[:, :4] + torch.eye(8)[:, 4:]
    output = torch.cat([torch.eye(4), torch.zeros(3, 4)])
    choices = torch.tensor([9, 0, 1, 2, 9, 0, 1, 2])  # one place later: what `hidden` says
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    targets = medusa.targets(choices, positions, torch.ones(8), heads=2)
    drawn = torch.zeros(8, 4)
    _, accuracy = medusa.heads_loss(heads, hidden, drawn, targets, output)
    assert [round(x.item(), 6) for x in accuracy] == [1.0, 0.0]


def _check_adapter(adapter: pathlib.Path, merged: pathlib.Path) -> None:
    """Base plus adapter, by the names and the scale of PEFT, is the merged folder, but for the
    adapter's int8."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["linear_attention"] == _FORM
    base, whole = model.read_weights(_BASE), model.read_weights(merged)
    tensors = model.safetensors_io.load(adapter / "adapter_model.safetensors")[0]
    scale = config["lora_alpha"] / config["r"]
    own = {name for name in tensors if name.startswith("model.")}
    assert own == set(whole) - set(base)
    for name in own:
        assert np.array_equal(tensors[name], whole[name])
    for name in base:
        prefix = "base_model.model." + name.removesuffix(".weight")
        if f"{prefix}.lora_A.weight" in tensors:
            parts = (f"{prefix}.lora_B.weight", f"{prefix}.lora_A.weight")
            assert all(tensors[part].dtype == np.int8 for part in parts)
            b, a = (tensors[part] * tensors[f"{part}.scale"][:, None] for part in parts)
            update = whole[name] - base[name]
            assert np.abs(scale * (b @ a) - update).max() < 0.02 * np.abs(update).max()
            assert not np.array_equal(base[name], whole[name])
        else:
            assert np.array_equal(base[name], whole[name])


def test_int8_rows_are_within_half_a_step() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    matrix[2] = 0
    matrix[3] *= 1e-6
    integers, scale = export.quantised(matrix)
    assert integers.dtype == np.int8 and scale.dtype == np.float32
    assert (np.abs(integers).max(1) == [127, 127, 0, 127, 127]).all()
    assert (np.abs(integers * scale[:, None] - matrix) <= 0.501 * scale[:, None]).all()
