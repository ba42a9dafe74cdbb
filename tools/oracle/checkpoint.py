"""Writes small random LLaMA checkpoints, softmax or linearized, as Hugging Face folders.

The scales are chosen so that predictions are far from flat and every part of the attention matters.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

import safetensors_io
from oracle.attention import AttentionSpec

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = (
    "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o",
    "e n", "n d", "Ġ c", "i t", "o u", "i s", "Ġ f", "in g", "o r", "Ġ b", "Ġa nd", "Ġ in",
    "s t", "Ġt o", "l l", "Ġo f", "u s",
)  # fmt: skip
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + len(_MERGES)
_MAX_POSITIONS = 2048
MEDUSA_FILE = "medusa_lm_head.safetensors"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What to write. `linear_attention` is the block of config.json, None for softmax attention.
    `released` writes the convolution's mask beside its filter, as the released checkpoints do."""

    hidden_size: int
    num_layers: int
    heads: int
    kv_heads: int
    linear_attention: dict[str, Any] | None
    released: bool = False
    tied: bool = True
    dtype: str = "float32"  # or bfloat16
    seed: int = 0
    model_type: str = "llama"
    explicit_head_dim: int | None = None
    explicit_intermediate_size: int | None = None
    rope_scaling: dict[str, Any] | None = None
    max_context: int = 0  # With which it is to be run, where the default will not do.
    medusa_heads: int = 0
    medusa_heads_see_drawn_token: bool = False
    # Keys of config.json beyond those of every model, or in their place.
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        return self.explicit_head_dim or self.hidden_size // self.heads

    @property
    def intermediate_size(self) -> int:
        return self.explicit_intermediate_size or 2 * self.hidden_size

    @property
    def biased(self) -> tuple[str, ...]:
        """The projections with a bias."""
        names: tuple[str, ...] = ()
        if self.model_type == "qwen2" or self.extra.get("attention_bias"):
            names += ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        if self.extra.get("attention_bias"):
            names += ("self_attn.o_proj",)
        if self.extra.get("mlp_bias"):
            names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
        return names


def write(folder: pathlib.Path, shape: Shape) -> None:
    """Writes the checkpoint into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = draw_weights(shape)
    if shape.dtype == "bfloat16":
        tensors = {name: safetensors_io.to_bf16(values) for name, values in tensors.items()}
    safetensors_io.save(folder / "model.safetensors", tensors, {"format": "pt"})
    if shape.medusa_heads:
        heads = {name: safetensors_io.to_bf16(x) for name, x in draw_medusa_heads(shape).items()}
        safetensors_io.save(folder / MEDUSA_FILE, heads, {"format": "pt"})
    documents = {
        "config.json": config(shape),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_config(),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def config(shape: Shape) -> dict[str, Any]:
    """config.json."""
    keys: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[shape.model_type]],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": _MAX_POSITIONS,
        "mlp_bias": False,
        "model_type": shape.model_type,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": shape.rope_scaling,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": shape.dtype,
        "vocab_size": VOCAB_SIZE,
    }
    if shape.explicit_head_dim is not None:
        keys["head_dim"] = shape.explicit_head_dim
    if shape.linear_attention is not None:
        keys["linear_attention"] = shape.linear_attention
    return {**keys, **shape.extra}


def draw_weights(shape: Shape) -> dict[str, np.ndarray]:
    """Every tensor, in float32."""
    rng = np.random.default_rng(shape.seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)

    def norm() -> np.ndarray:
        return 1 + 0.2 * rng.standard_normal(shape.hidden_size)

    hidden, ffn = shape.hidden_size, shape.intermediate_size
    q_size, kv_size = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {"model.embed_tokens.weight": matrix(VOCAB_SIZE, hidden, gain=2.0)}
    if not shape.tied:
        tensors["lm_head.weight"] = matrix(VOCAB_SIZE, hidden, gain=2.0)
    tensors["model.norm.weight"] = norm()
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = norm()
        tensors[prefix + "post_attention_layernorm.weight"] = norm()
        # Queries and keys with some contrast, so that softmax is not an average.
        tensors[prefix + "self_attn.q_proj.weight"] = matrix(q_size, hidden, gain=1.4)
        tensors[prefix + "self_attn.k_proj.weight"] = matrix(kv_size, hidden, gain=1.4)
        tensors[prefix + "self_attn.v_proj.weight"] = matrix(kv_size, hidden)
        tensors[prefix + "self_attn.o_proj.weight"] = matrix(hidden, q_size)
        tensors[prefix + "mlp.gate_proj.weight"] = matrix(ffn, hidden)
        tensors[prefix + "mlp.up_proj.weight"] = matrix(ffn, hidden)
        tensors[prefix + "mlp.down_proj.weight"] = matrix(hidden, ffn)
        for name, values in _draw_attention(shape, layer, rng).items():
            tensors[f"{prefix}self_attn.{name}"] = values
        for name in shape.biased:
            rows = len(tensors[f"{prefix}{name}.weight"])
            tensors[f"{prefix}{name}.bias"] = 0.5 * rng.standard_normal(rows)
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def _draw_attention(shape: Shape, layer: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The tensors that only linearized attention has."""
    if shape.linear_attention is None:
        return {}
    spec = AttentionSpec.for_layers(shape.linear_attention, shape.num_layers)[layer]
    heads, kv_heads, d = shape.heads, shape.kv_heads, shape.head_dim
    tensors = {}
    if spec.conv_kernel:
        # The taps of future rows are drawn too: whoever reads them is wrong.
        kernel = spec.conv_kernel
        tensors["dwconv.weight"] = 0.4 * rng.standard_normal((heads, 1, kernel, 1))
        if shape.released:
            tensors["conv_mask"] = (np.arange(kernel) < spec.num_taps).reshape(1, 1, kernel, 1)
    if spec.alpha == "learned":
        # Large enough to show beside the local branch, small enough for S to grow over 1,000 rows.
        tensors["global_factor"] = rng.choice([-1, 1]) * rng.uniform(0.1, 0.2, 1)
    if spec.feature_map == "hedgehog":
        half = spec.features(d) // 2
        tensors["feature_map_q.weight"] = rng.standard_normal((heads, d, half)) / np.sqrt(d)
        tensors["feature_map_k.weight"] = rng.standard_normal((kv_heads, d, half)) / np.sqrt(d)
    if spec.denominator == "joint":
        tensors["linear_factor"] = rng.uniform(-0.5, 1.5, heads)
    if spec.decay == "head":
        tensors["decay"] = rng.uniform(0.5, 3.0, kv_heads)
    return tensors


def draw_medusa_heads(shape: Shape) -> dict[str, np.ndarray]:
    """Of models whose output matrix is the embedding they share it, of others they have their own."""
    rng = np.random.default_rng(1000 + shape.seed)
    size, tensors = shape.hidden_size, {}
    inputs = size * (2 if shape.medusa_heads_see_drawn_token else 1)
    for head in range(shape.medusa_heads):
        tensors[f"{head}.0.linear.weight"] = rng.standard_normal((size, inputs)) * 2 / np.sqrt(size)
        tensors[f"{head}.0.linear.bias"] = rng.standard_normal(size)
        if shape.medusa_heads_see_drawn_token:
            own = f"{head}.0.res_connection"
            tensors[f"{own}.weight"] = rng.standard_normal((size, inputs)) * 2 / np.sqrt(size)
            tensors[f"{own}.bias"] = rng.standard_normal(size)
        if not shape.tied:
            output = rng.standard_normal((VOCAB_SIZE, size)) * 2 / np.sqrt(size)
            tensors[f"{head}.1.weight"] = output
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def tokenizer() -> dict[str, Any]:
    """tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    merges = [merge.split(" ") for merge in _MERGES]
    tokens = [*SPECIAL_TOKENS, *_byte_alphabet(), *("".join(pair) for pair in merges)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, **_added_token(token)} for token_id, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "added_tokens_decoder": {
            str(token_id): _added_token(token) for token_id, token in enumerate(SPECIAL_TOKENS)
        },
        "bos_token": "<|im_start|>",
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": _MAX_POSITIONS,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }


def _added_token(content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": content, **flags, "special": True}


def _byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte 0..255: itself where it is printable,
    otherwise the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, next_free = [], 0x100
    for byte in range(256):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(next_free))
            next_free += 1
    return alphabet
