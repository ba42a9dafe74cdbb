"""A run: one folder with the settings, the checkpoints of its stages and their log."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from linearize import medusa
from linearize import model as models
from linearize.pairs import Pairs

STAGES = ("transfer", "distill")  # in the order in which they build on each other
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the student is; fixed when the run is made."""

    linear_attention: Mapping[str, Any]
    lora_rank: int
    lora_alpha: float
    lora: tuple[str, ...]  # the projections that are trained by low-rank updates
    full: tuple[str, ...]  # those that are trained whole
    seed: int


class Run:
    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    @classmethod
    def create(cls, folder: pathlib.Path, settings: Settings) -> Run:
        """Makes the folder, or checks that it was made with the same settings."""
        if (folder / _SETTINGS).exists():
            run = cls.open(folder)
            if run.settings != settings:
                raise ValueError(
                    f"{folder} has other settings: {run.settings}, not {settings}; choose another"
                    " folder"
                )
            return run
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(settings), indent=1)
        (folder / _SETTINGS).write_text(text + "\n", encoding="utf-8")
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: pathlib.Path) -> Run:
        values = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        tuples = {name: tuple(values[name]) for name in ("lora", "full")}
        return cls(folder, Settings(**{**values, **tuples}))

    def checkpoint(self, stage: str) -> pathlib.Path:
        return self.folder / f"{stage}.pt"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "log.jsonl"

    def student(self, base: pathlib.Path, dtype: torch.dtype, for_stage: str) -> models.Model:
        """The model as a stage trains it; it starts from what the stage before left."""
        model = models.load(base, self.settings.linear_attention, dtype)
        if for_stage != "transfer":
            settings = self.settings
            model.train_fully(settings.full)
            model.add_lora(settings.lora_rank, settings.lora_alpha, settings.lora, settings.seed)
        earlier = STAGES[: STAGES.index(for_stage)]
        for stage in reversed(earlier):
            if self.checkpoint(stage).exists():
                self._restore(model, stage)
                break
        return model

    def trained(self, base: pathlib.Path, dtype: torch.dtype) -> models.Model:
        """The model after the last stage that was run."""
        for stage in reversed(STAGES):
            if self.checkpoint(stage).exists():
                model = self.student(base, dtype, stage)
                self._restore(model, stage)
                return model
        raise ValueError(f"{self.folder}: no stage was run")

    def medusa(self) -> medusa.MedusaHeads:
        """The trained heads, as they guess: without dropout."""
        saved = torch.load(self.checkpoint("medusa"), map_location="cpu")["parameters"]
        count = 1 + max(int(name.partition(".")[0]) for name in saved)
        heads = medusa.MedusaHeads(len(saved["0.0.linear.bias"]), count)
        heads.load_state_dict(saved)
        return heads.eval()

    @property
    def pairs_file(self) -> pathlib.Path:
        return self.folder / "pairs.npz"

    def pairs(self) -> Pairs | None:
        """The token pairs, where they were counted."""
        return Pairs.load(self.pairs_file) if self.pairs_file.exists() else None

    def _restore(self, model: models.Model, stage: str) -> None:
        saved = torch.load(self.checkpoint(stage), map_location="cpu")["parameters"]
        parameters = model.trained()
        for name, value in saved.items():
            parameters[name].data.copy_(value)
