"""A model of the LLaMA family (llama, mistral, qwen2) over a whole sequence in float64, read from a
Hugging Face folder.

Attention is softmax, or what config.json's `linear_attention` says; its tensors are those of the
released Linearized-LLM checkpoints (dwconv, conv_mask, global_factor) and of the learned feature
maps (feature_map_q, feature_map_k, linear_factor, decay).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

import safetensors_io
from oracle import rope
from oracle.attention import AttentionParameters, AttentionSpec, attention


_SOFTMAX = {"group_size": 0, "local": "softmax", "feature_map": "none"}


@dataclasses.dataclass(frozen=True)
class Model:
    """Weights by Hugging Face name. Every field may be replaced to see what a part contributes;
    `specs` and `attention` have an entry a layer."""

    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    specs: tuple[AttentionSpec, ...]
    attention: tuple[AttentionParameters, ...]
    max_context: int = 0  # What "dynamic" scaling of positions is made for.

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        """[n, vocabulary]: row i is the distribution of the token after tokens[0..i]."""
        return log_softmax(self.hidden(tokens) @ self.output.T)

    def medusa_log_probabilities(
        self, tokens: list[int], heads: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """[heads, vocabulary]: what Medusa heads, by the names of their file, guess after tokens and
        the likeliest next token, which heads with a `res_connection` see."""
        hidden, rows = self.hidden(tokens)[-1], []
        drawn = int(np.argmax(self.output @ hidden))
        both = np.concatenate([hidden, self.weights["model.embed_tokens.weight"][drawn]])
        while f"{len(rows)}.0.linear.weight" in heads:
            head = len(rows)
            own = f"{head}.0.res_connection"
            x = both if f"{own}.weight" in heads else hidden
            gate = heads[f"{head}.0.linear.weight"] @ x + heads[f"{head}.0.linear.bias"]
            base = x if x is hidden else heads[f"{own}.weight"] @ x + heads[f"{own}.bias"]
            state = base + gate / (1 + np.exp(-gate))
            rows.append(heads.get(f"{head}.1.weight", self.output) @ state)
        return log_softmax(np.array(rows))

    @property
    def output(self) -> np.ndarray:
        """[vocabulary, hidden size]"""
        tied = self.config["tie_word_embeddings"]
        return self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]

    def hidden(self, tokens: list[int]) -> np.ndarray:
        """[n, hidden size]: the last hidden states, normed."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            x = x + self._attention_block(layer, self._norm(f"layers.{layer}.input_layernorm", x))
            x = x + self._mlp(layer, self._norm(f"layers.{layer}.post_attention_layernorm", x))
        return self._norm("norm", x)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean_square = (x * x).mean(axis=-1, keepdims=True)
        scale = self.weights[f"model.{name}.weight"]
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * scale

    def _attention_block(self, layer: int, x: np.ndarray) -> np.ndarray:
        prefix = f"model.layers.{layer}.self_attn."
        heads = self.config["num_attention_heads"]
        head_dim = self.config.get("head_dim") or self.config["hidden_size"] // heads

        def project(name: str) -> np.ndarray:
            return self._linear(f"{prefix}{name}_proj", x).reshape(len(x), -1, head_dim)

        q, k, v = self._rotate(project("q")), self._rotate(project("k")), project("v")
        output = attention(self.specs[layer], self.attention[layer], q, k, v)
        output = output.reshape(len(x), -1)
        return self._linear(f"{prefix}o_proj", output)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        """Rotary positions; the halves of a head are the pairs."""
        half = x.shape[-1] // 2
        frequencies, scale = rope.frequencies(self.config, self.max_context)
        angles = np.arange(len(x))[:, None, None] * frequencies
        a, b = x[..., :half], x[..., half:]
        cos, sin = scale * np.cos(angles), scale * np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def _mlp(self, layer: int, x: np.ndarray) -> np.ndarray:
        prefix = f"model.layers.{layer}.mlp."
        gate, up = self._linear(f"{prefix}gate_proj", x), self._linear(f"{prefix}up_proj", x)
        return self._linear(f"{prefix}down_proj", gate / (1 + np.exp(-gate)) * up)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """By rows."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def load(folder: pathlib.Path) -> Model:
    """Reads config.json and model.safetensors."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ("llama", "mistral", "qwen2"):
        raise ValueError(f"{folder}: not a model of the LLaMA family")
    stored, _ = safetensors_io.load(folder / "model.safetensors")
    return build(config, stored)


def build(config: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> Model:
    """A model of weights in memory."""
    weights = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    block = config.get("linear_attention", _SOFTMAX)
    specs = AttentionSpec.for_layers(block, config["num_hidden_layers"])
    parameters = [_attention_parameters(spec, weights, i) for i, spec in enumerate(specs)]
    return Model(config, weights, specs, tuple(parameters))


def _attention_parameters(
    spec: AttentionSpec, weights: Mapping[str, np.ndarray], layer: int
) -> AttentionParameters:
    prefix = f"model.layers.{layer}.self_attn."
    alpha = 1.0 if spec.alpha is None else spec.alpha
    if alpha == "learned":
        alpha = weights[prefix + "global_factor"].item()
    taps = None
    if spec.conv_kernel:
        kernel = weights[prefix + "dwconv.weight"] * weights.get(prefix + "conv_mask", 1.0)
        taps = kernel[:, 0, spec.conv_kernel // 2 :: -1, 0]  # kernel index 0 is the oldest row
    decay = weights.get(prefix + "decay")
    return AttentionParameters(
        alpha=alpha,
        taps=taps,
        feature_map_q=weights.get(prefix + "feature_map_q.weight"),
        feature_map_k=weights.get(prefix + "feature_map_k.weight"),
        linear_factor=weights.get(prefix + "linear_factor"),
        decay=None if decay is None else 1 / (1 + np.exp(-decay)),
    )
