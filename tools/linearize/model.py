"""A LLaMA-family model for training. Modules and parameters carry Hugging Face's names.

Base weights are frozen; what is trained is low-rank (LoRA) or a whole projection, and the
attention's own parameters. A row of tokens may hold several documents: see attention.py.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import safetensors_io
from linearize.attention import Attention
from linearize.form import Form, alignment

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SOFTMAX = {"group_size": 0, "local": "softmax", "feature_map": "none"}


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope_theta: float
    tied: bool

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Config:
        """From Hugging Face's config.json."""
        unsupported = {
            "model_type": config["model_type"] != "llama",
            "rope_scaling": config.get("rope_scaling") is not None,
            "attention_bias": config.get("attention_bias", False),
            "mlp_bias": config.get("mlp_bias", False),
        }
        for key, value in unsupported.items():
            if value:
                raise ValueError(f"config.json: {key} {config[key]!r} is not supported")
        heads = config["num_attention_heads"]
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            norm_epsilon=config["rms_norm_eps"],
            rope_theta=config.get("rope_theta", 10000.0),
            tied=config.get("tie_word_embeddings", False),
        )


class Linear(nn.Module):
    """x W^T, where W = weight + scale * lora_B lora_A once `add_lora` was called. The sum is made
    at every call: one wide product beats three thin ones, in the backward pass above all."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.scale = 0.0

    def add_lora(self, rank: int, alpha: float, generator: torch.Generator) -> None:
        outputs, inputs = self.weight.shape
        a = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        self.lora_A, self.lora_B = nn.Module(), nn.Module()
        self.lora_A.weight = nn.Parameter(a)
        self.lora_B.weight = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank

    def merged(self, dtype: torch.dtype) -> torch.Tensor:
        if self.scale == 0.0:
            return self.weight.to(dtype)
        update = self.lora_B.weight.to(dtype) @ self.lora_A.weight.to(dtype)
        return (self.weight.float() + self.scale * update.float()).to(dtype)


class Norm(nn.Module):
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = (wide.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        return (wide * scale * self.weight.float()).to(x.dtype)


class SelfAttention(Attention):
    def __init__(self, config: Config, form: Form) -> None:
        super().__init__(form, config.heads, config.kv_heads, config.head_dim)
        size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, size)
        self.k_proj = Linear(config.hidden_size, kv_size)
        self.v_proj = Linear(config.hidden_size, kv_size)
        self.o_proj = Linear(size, config.hidden_size)
        self.head_dim = config.head_dim

    def project(
        self, x: torch.Tensor, rotation: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k (rotated) and v, [batch, n, heads, d]."""
        weights = [p.merged(x.dtype) for p in (self.q_proj, self.k_proj, self.v_proj)]
        parts = F.linear(x, torch.cat(weights)).split([len(w) for w in weights], -1)
        q, k, v = (part.reshape(*x.shape[:2], -1, self.head_dim) for part in parts)
        return _rotate(q, rotation), _rotate(k, rotation), v


class Mlp(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.cat([self.gate_proj.merged(x.dtype), self.up_proj.merged(x.dtype)])
        gate, up = F.linear(x, weights).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down_proj.merged(x.dtype))


class Layer(nn.Module):
    def __init__(self, config: Config, form: Form) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.norm_epsilon)
        self.self_attn = SelfAttention(config, form)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_epsilon)
        self.mlp = Mlp(config)

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = self.self_attn.project(self.input_layernorm(x), rotation)
        return self.after_attention(x, self.self_attn(q, k, v, positions))

    def after_attention(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        output_weight = self.self_attn.o_proj.merged(x.dtype)
        x = x + F.linear(attended.reshape(*x.shape[:2], -1), output_weight)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, config: Config, forms: Sequence[Form], dtype: torch.dtype) -> None:
        """`forms` holds one for each layer. `dtype` is that of activations and of frozen weights;
        trained parameters are float32."""
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_tokens.weight.requires_grad_(False)
        self.layers = nn.ModuleList(Layer(config, form) for form in forms)
        self.norm = Norm(config.hidden_size, config.norm_epsilon)
        if not config.tied:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        self.checkpointing = False

    @property
    def head_weight(self) -> torch.Tensor:
        return self.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @property
    def alignment(self) -> int:
        """Documents in a row start at its multiples."""
        return alignment([layer.self_attn.spec for layer in self.layers])

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens, self.embed_tokens.weight)

    def rotation(self, positions: torch.Tensor) -> torch.Tensor:
        """Cosines and sines [2, batch, n, 1, head_dim / 2]."""
        half = self.config.head_dim // 2
        exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
        angles = positions[..., None, None] * self.config.rope_theta**-exponents
        return torch.stack([angles.cos(), angles.sin()]).float()

    def hidden(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The normed last hidden states [batch, n, hidden]."""
        x, rotation = self.embed(tokens), self.rotation(positions)
        if torch.is_grad_enabled():
            x.requires_grad_()  # so that the first layer compiles to the same graph as the others
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(
                    layer, x, rotation, positions, use_reentrant=False
                )
            else:
                x = layer(x, rotation, positions)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.head_weight).float()

    def linears(self) -> Iterator[tuple[str, Linear]]:
        for name, module in self.named_modules():
            if isinstance(module, Linear) and name != "lm_head":
                yield name, module

    def add_lora(self, rank: int, alpha: float, projections: tuple[str, ...], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, linear in self.linears():
            if name.rpartition(".")[2] in projections:
                linear.add_lora(rank, alpha, generator)

    def fold_updates(self) -> Model:
        """Adds the low-rank updates to the weights for good; the model computes the same."""
        for _, linear in self.linears():
            linear.weight = nn.Parameter(linear.merged(self.dtype).data, requires_grad=False)
            linear.scale = 0.0
        return self

    def train_fully(self, projections: tuple[str, ...]) -> None:
        for name, linear in self.linears():
            if name.rpartition(".")[2] in projections:
                linear.weight = nn.Parameter(linear.weight.data.float())

    def trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def attention_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters that the form brought with it."""
        new = ("feature_map_q.", "feature_map_k.", "linear_factor", "decay", "global_factor")
        return {
            n: p
            for n, p in self.trained().items()
            if n.partition("self_attn.")[2].startswith((*new, "dwconv."))
        }


def load(
    folder: pathlib.Path, linear_attention: Mapping[str, Any] | None, dtype: torch.dtype
) -> Model:
    """From a Hugging Face folder; `linear_attention`, a block as in form.py, replaces the folder's
    own attention, whose tensors then start anew."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = Config.from_json(config)
    block = linear_attention or config.get("linear_attention", SOFTMAX)
    model = Model(sizes, Form.for_layers(block, sizes.num_layers), dtype)
    added = set(model.attention_parameters())
    weights = read_weights(folder)
    for name, parameter in model.named_parameters():
        if linear_attention is None or name not in added:
            parameter.data.copy_(_stored(weights, name, parameter.shape))
    return model


def random(
    folder: pathlib.Path,
    linear_attention: Mapping[str, Any],
    dtype: torch.dtype,
    device: str | torch.device,
) -> Model:
    """Of the shape that a folder's config.json gives, with weights drawn by torch's own generator:
    to measure speed and memory."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = Config.from_json(config)
    with torch.device(device):
        model = Model(sizes, Form.for_layers(linear_attention, sizes.num_layers), dtype)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            is_norm = name.endswith("norm.weight")
            parameter.data.normal_(1.0 if is_norm else 0.0, 0.02)
    return model


def read_weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no model*.safetensors file")
    weights: dict[str, np.ndarray] = {}
    for file in files:
        weights.update(safetensors_io.load(file)[0])
    return weights


def _stored(weights: Mapping[str, np.ndarray], name: str, shape: torch.Size) -> torch.Tensor:
    key = name if name.startswith("lm_head.") else f"model.{name}"
    if key not in weights:
        raise ValueError(f"the checkpoint has no tensor {key}")
    value = np.array(weights[key])
    if name.endswith("dwconv.weight"):  # released checkpoints keep a mask beside it
        value = value * weights.get(key.replace("dwconv.weight", "conv_mask"), 1.0)
    if value.shape != tuple(shape):
        raise ValueError(f"{key}: shape {value.shape}, not {tuple(shape)}")
    return torch.from_numpy(value)


def _rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    cos, sin = rotation[0], rotation[1]
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
