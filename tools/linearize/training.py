"""The stages that train: attention transfer, distillation, Medusa heads. Each can be stopped at any
step and goes on from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from linearize import loss as losses
from linearize import medusa
from linearize.corpus import Row, Rows, SameRow
from linearize.model import Model

_BETAS = (0.9, 0.95)
_WARM_UP_STEPS = 20
_LAST_RATE = 0.05  # of the cosine schedule, relative to the peak
_MAX_GRADIENT_NORM = 1.0
# A learned alpha (`global_factor`) multiplies a sum over all rows before: at its best it is below
# 1e-3 in most layers, and its gradient some hundred times the others'. So it learns slowly,
# relative to the gates, and does not count in the norm.
_ALPHA_RATE = 2e-3
_ALPHA = "global_factor"
# Draft heads. A's part goes into the logits as it is, and so learns slowly, relative to W.
_STRAIGHT_RATE = 1 / 3
_HEAD_WEIGHT_DECAY = 0.2  # of W: heads learn texts by heart sooner than what goes for others


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training at one document length."""

    steps: int
    max_length: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    phases: Sequence[Phase]

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def max_length(self, step: int) -> int:
        for phase in self.phases:
            if step < phase.steps:
                return phase.max_length
            step -= phase.steps
        raise IndexError("past the last step")

    def rate(self, step: int) -> float:
        """Relative learning rate: a short warm-up, then a cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / _WARM_UP_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


class Log:
    """Appends records to a JSON-lines file and keeps a progress line on a terminal."""

    def __init__(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **record: Any) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        end = "\r" if sys.stderr.isatty() else "\n"
        values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        print("  ".join(values), end=end, file=sys.stderr, flush=True)


class Checkpoint:
    """What a stage needs to go on: the trained parameters, the optimizer, the step."""

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]) -> None:
        """A checkpoint made with other settings is refused."""
        self._path, self._settings = path, dict(settings)

    def restore(self, parameters: Mapping[str, nn.Parameter], optimizer) -> int:
        """The step to go on with; 0 without a checkpoint."""
        if not self._path.exists():
            return 0
        saved = torch.load(self._path, map_location="cpu")
        if saved["settings"] != self._settings:
            raise ValueError(
                f"{self._path} was made with {saved['settings']}, not {self._settings}:"
                " remove it or choose another folder"
            )
        for name, parameter in parameters.items():
            parameter.data.copy_(saved["parameters"][name])
        optimizer.load_state_dict(saved["optimizer"])
        return saved["step"]

    def save(self, parameters: Mapping[str, nn.Parameter], optimizer, step: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        state = {
            "settings": self._settings,
            "parameters": {n: p.detach().cpu() for n, p in parameters.items()},
            "optimizer": optimizer.state_dict(),
            "step": step,
        }
        torch.save(state, partial)
        os.replace(partial, self._path)


class NoCheckpoint(Checkpoint):
    """For a run that is measured and not kept."""

    def __init__(self) -> None:
        super().__init__(pathlib.Path(), {})

    def restore(self, parameters: Mapping[str, nn.Parameter], optimizer) -> int:
        return 0

    def save(self, parameters: Mapping[str, nn.Parameter], optimizer, step: int) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a stage is run, as opposed to what it computes."""

    compile: bool = False
    log_every: int = 20
    save_every_s: float = 300.0
    stop_after_s: float = math.inf  # then it saves and returns; the next run goes on


def compile_layers(model: Model) -> None:
    """One graph per kind of layer, not one for the whole model, which takes minutes to compile."""
    torch._dynamo.config.recompile_limit = 64
    for layer in model.layers:
        layer.compile(dynamic=False)


def to_device(row: Row, device: torch.device) -> dict[str, torch.Tensor]:
    def tensor(values) -> torch.Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    return {
        "tokens": tensor(row.tokens)[None],
        "positions": tensor(row.positions)[None],
        "targets": tensor(row.targets),
        "is_text": tensor(row.is_text).float(),
        "has_target": tensor(row.has_target).float(),
    }


def transfer(
    teacher: Model,
    student: Model,
    gate_rate: float,
    sampler: Rows,
    schedule: Schedule,
    rate: float,
    checkpoint: Checkpoint,
    log: Log,
    options: RunOptions,
) -> None:
    """Fits each layer's new parameters so that its attention gives the teacher's outputs on the
    teacher's own q, k and v. Loss: mean squared error over the teacher's variance, averaged over
    the layers that have such parameters."""
    parameters = student.attention_parameters()
    optimizer = _adam(_new_groups(parameters, rate, gate_rate))
    attentions: list[Callable] = [layer.self_attn for layer in student.layers]
    fitted = {int(name.split(".")[1]) for name in parameters}  # layers.N.
    project = [layer.self_attn.project for layer in teacher.layers]
    after = [layer.after_attention for layer in teacher.layers]
    if options.compile:
        torch._dynamo.config.recompile_limit = 64
        attentions = [torch.compile(a, dynamic=False) for a in attentions]
        after = [torch.compile(a, dynamic=False) for a in after]

    def step(_: int, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        positions, is_text = data["positions"], data["is_text"]
        with torch.no_grad():
            x, rotation = teacher.embed(data["tokens"]), teacher.rotation(positions)
        error = torch.zeros((), device=x.device)
        for i, layer in enumerate(teacher.layers):
            with torch.no_grad():
                q, k, v = project[i](layer.input_layernorm(x), rotation)
                target = layer.self_attn(q, k, v, positions)
            if i in fitted:
                loss = _normalised_error(attentions[i](q, k, v, positions), target, is_text)
                loss.backward()
                error += loss.detach() / len(fitted)
            with torch.no_grad():
                x = after[i](x, target)
        return {"error": error}

    _run(step, parameters, optimizer, sampler, schedule, checkpoint, log, options, "transfer")


def _normalised_error(
    output: torch.Tensor, target: torch.Tensor, is_text: torch.Tensor
) -> torch.Tensor:
    weight = is_text[None, :, None, None] / (is_text.sum() * target.shape[2] * target.shape[3])
    output, target = output.float(), target.float()
    mean = (target * weight).sum()
    return ((output - target).square() * weight).sum() / ((target - mean).square() * weight).sum()


def distill(
    teacher: Model,
    student: Model,
    new_rate: float,
    gate_rate: float,
    ce_weight: float,
    sampler: Rows,
    schedule: Schedule,
    rate: float,
    checkpoint: Checkpoint,
    log: Log,
    options: RunOptions,
) -> None:
    """Trains the student on KL to the teacher plus `ce_weight` times cross-entropy. `new_rate` is
    the learning rate of the attention's own parameters, `gate_rate` that of its gates, and `rate`
    that of the rest."""
    parameters, new = student.trained(), student.attention_parameters()
    old = [p for n, p in parameters.items() if n not in new]
    optimizer = _adam([{"params": old, "lr": rate}, *_new_groups(new, new_rate, gate_rate)])
    slice_loss: Callable = losses.distillation_slice
    if options.compile:
        compile_layers(teacher)
        compile_layers(student)
        slice_loss = torch.compile(slice_loss, dynamic=False)

    def step(_: int, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher_hidden = teacher.hidden(data["tokens"], data["positions"])[0]
        hidden = student.hidden(data["tokens"], data["positions"])[0]
        kl_weight = data["is_text"] / data["is_text"].sum()
        weights = (kl_weight, ce_weight * data["has_target"] / data["has_target"].sum())
        loss, (kl, ce) = losses.distillation_loss(
            hidden, teacher_hidden, student.head_weight, data["targets"], *weights, slice_loss
        )
        loss.backward()
        return {"kl": kl, "ce": ce / max(ce_weight, 1e-9)}

    _run(step, parameters, optimizer, sampler, schedule, checkpoint, log, options, "distill")


def train_medusa(
    model: Model,
    heads: medusa.MedusaHeads,
    sampler: Rows,
    schedule: Schedule,
    rate: float,
    checkpoint: Checkpoint,
    log: Log,
    options: RunOptions,
    kept_rows: int = 0,
) -> None:
    """Trains the heads on the frozen model's own choices. With `kept_rows` there are no more rows
    than those: what the model makes of them is kept on the device, and a step takes as many of
    their tokens as a row has, any of them, and the heads' time alone."""
    parameters = dict(heads.named_parameters())
    optimizer = _adam(_head_groups(parameters, rate))
    device, scale = model.head_weight.device, medusa.drawn_scale(model)
    slice_loss: Callable = losses.target_slice
    if options.compile:
        compile_layers(model)
        slice_loss = torch.compile(slice_loss, dynamic=False)

    def read(data: dict[str, torch.Tensor]) -> medusa.Examples:
        rows = (data["tokens"][0], data["positions"][0], data["is_text"])
        return medusa.read(model, *rows, len(heads))

    kept: medusa.Examples | None = None
    if kept_rows:  # of each phase's length as many as it has of the steps
        lengths = [schedule.max_length(i * schedule.steps // kept_rows) for i in range(kept_rows)]
        rows = [sampler.row(i, length) for i, length in enumerate(lengths)]
        kept = medusa.Examples.join(read(to_device(row, device)) for row in rows)
        sampler = SameRow(rows[0])

    def step(index: int, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.manual_seed(index)  # dropout and choice of a step do not depend on where a run began
        if kept is None:
            examples = read(data)
        else:
            count = data["tokens"].numel()
            examples = kept.take(torch.randint(len(kept.drawn), (count,), device=device))
        drawn = model.embed(examples.drawn) * scale
        loss, accuracy = medusa.heads_loss(
            heads, examples.hidden, drawn, examples.targets, model.head_weight, slice_loss
        )
        loss.backward()
        values = {f"top1_{k}": value for k, value in enumerate(accuracy)}
        return {"loss": loss.detach(), **values}

    _run(step, parameters, optimizer, sampler, schedule, checkpoint, log, options, "medusa")


def _new_groups(
    parameters: Mapping[str, nn.Parameter], rate: float, gate_rate: float
) -> list[dict[str, Any]]:
    """The attention's own parameters: its gates, a number a head each, alpha, and the others."""
    alphas = [p for n, p in parameters.items() if n.endswith(_ALPHA)]
    gates = [p for n, p in parameters.items() if p.dim() == 1 and not n.endswith(_ALPHA)]
    others = [p for p in parameters.values() if p.dim() > 1]
    rates = [(others, rate), (gates, gate_rate), (alphas, gate_rate * _ALPHA_RATE)]
    return [{"params": group, "lr": group_rate} for group, group_rate in rates]


def _head_groups(parameters: Mapping[str, nn.Parameter], rate: float) -> list[dict[str, Any]]:
    straight = [p for n, p in parameters.items() if ".res_connection." in n]
    biases = [p for n, p in parameters.items() if n.endswith(".linear.bias")]
    weights = [p for n, p in parameters.items() if n.endswith(".linear.weight")]
    return [
        {"params": weights, "lr": rate, "weight_decay": _HEAD_WEIGHT_DECAY},
        {"params": biases, "lr": rate},
        {"params": straight, "lr": rate * _STRAIGHT_RATE},
    ]


def _adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    groups = [group for group in groups if group["params"]]
    on_gpu = groups[0]["params"][0].is_cuda
    for group in groups:
        group["peak"] = group["lr"]
    return torch.optim.AdamW(
        groups, betas=_BETAS, weight_decay=0.0, **({"fused": True} if on_gpu else {})
    )


def _run(
    step_function: Callable[[int, dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    sampler: Rows,
    schedule: Schedule,
    checkpoint: Checkpoint,
    log: Log,
    options: RunOptions,
    stage: str,
) -> None:
    first = checkpoint.restore(parameters, optimizer)
    device = next(iter(parameters.values())).device
    began = saved = logged = time.monotonic()
    tokens = 0
    clipped = [p for n, p in parameters.items() if not n.endswith(_ALPHA)]
    for step in range(first, schedule.steps):
        row = sampler.row(step, schedule.max_length(step))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule.rate(step)
        values = step_function(step, to_device(row, device))
        norm = nn.utils.clip_grad_norm_(clipped, _MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += len(row.tokens)
        done = step + 1
        if done % options.log_every == 0 or done == schedule.steps or step == first:
            numbers = {name: value.item() for name, value in values.items()}
            now = time.monotonic()
            log.write(
                stage=stage, step=done, of=schedule.steps, **numbers, norm=norm.item(),
                tokens_s=round(tokens / (now - logged)), s=round(now - began, 1),
                text=round(float(row.is_text.mean()), 3), gb=_peak_gb(device),
            )  # fmt: skip
            if not math.isfinite(sum(numbers.values())):
                raise ArithmeticError(f"{stage}: step {done} is not finite: {numbers}")
            logged, tokens = now, 0
        now = time.monotonic()
        if now - saved > options.save_every_s:
            checkpoint.save(parameters, optimizer, done)
            saved = now
        if now - began > options.stop_after_s:
            checkpoint.save(parameters, optimizer, done)
            log.write(stage=stage, stopped_at=done, of=schedule.steps)
            return
    checkpoint.save(parameters, optimizer, schedule.steps)


def _peak_gb(device: torch.device) -> float:
    return round(torch.cuda.max_memory_allocated() / 1e9, 1) if device.type == "cuda" else 0.0
