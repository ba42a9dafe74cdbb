"""Converts a LLaMA-family GGUF file with byte-level BPE to a Hugging Face model folder (bf16)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

import gguf_file
import safetensors_io

_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens

# GGUF name -> Hugging Face name. {i} is the layer.
_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",  # absent where the embedding is tied
}
_LAYER_TENSORS = {
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
}

# Pre-tokenizers by the name GGUF gives them, as tokenizer.json spells them.
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_PRE_TOKENIZERS = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
}

Progress = Callable[[int, int], None]  # tensors done, tensors in all


def convert(source: gguf_file.GgufFile, output: pathlib.Path, progress: Progress) -> None:
    """Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and
    model.safetensors into the existing folder `output`. Raises GgufError where the file is not such
    a model."""
    try:
        config = model_config(source)
        documents = {
            "config.json": config,
            "generation_config.json": generation_config(source.metadata),
            "tokenizer.json": tokenizer(source.metadata),
            "tokenizer_config.json": tokenizer_config(source.metadata),
        }
    except KeyError as error:
        raise gguf_file.GgufError(f"metadata key {error} is missing") from error
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (output / name).write_text(text, encoding="utf-8")
    tensors = convert_tensors(source, config, progress)
    safetensors_io.save(output / "model.safetensors", tensors, {"format": "pt"})


def model_config(source: gguf_file.GgufFile) -> dict[str, Any]:
    """config.json."""
    metadata = source.metadata
    if metadata["general.architecture"] != "llama":
        raise gguf_file.GgufError(f"architecture {metadata['general.architecture']!r} is not llama")
    hidden_size = metadata["llama.embedding_length"]
    num_heads = metadata["llama.attention.head_count"]
    if metadata["llama.rope.dimension_count"] * num_heads != hidden_size:
        raise gguf_file.GgufError("llama.rope.dimension_count is not the whole head")
    # The file stores float32: its shortest decimal form is the number that was meant.
    eps = float(str(np.float32(metadata["llama.attention.layer_norm_rms_epsilon"])))
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": eps,
        "rope_scaling": None,
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
    }


def generation_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """generation_config.json."""
    return {
        "_from_model_config": True,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE from the file's own vocabulary and merges."""
    if metadata["tokenizer.ggml.model"] != "gpt2":
        raise gguf_file.GgufError(
            f"tokenizer {metadata['tokenizer.ggml.model']!r} is not byte-level BPE"
        )
    if metadata["tokenizer.ggml.pre"] not in _PRE_TOKENIZERS:
        raise gguf_file.GgufError(f"pre-tokenizer {metadata['tokenizer.ggml.pre']!r} is not known")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    if any(len(merge) != 2 for merge in merges):
        raise gguf_file.GgufError("tokenizer.ggml.merges: an entry is not a pair of tokens")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, **_added_token(tokens[token_id])}
            for token_id in _special_ids(metadata)
        ],
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]],
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
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


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json, the chat template included."""
    tokens = metadata["tokenizer.ggml.tokens"]
    bos = tokens[metadata["tokenizer.ggml.bos_token_id"]]
    eos = tokens[metadata["tokenizer.ggml.eos_token_id"]]
    return {
        "add_prefix_space": metadata["tokenizer.ggml.add_space_prefix"],
        "added_tokens_decoder": {
            str(token_id): _added_token(tokens[token_id]) for token_id in _special_ids(metadata)
        },
        "additional_special_tokens": [bos, eos],
        "bos_token": bos,
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": metadata["llama.context_length"],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        "vocab_size": len(tokens),
    }


def convert_tensors(
    source: gguf_file.GgufFile, config: dict[str, Any], progress: Progress
) -> dict[str, np.ndarray]:
    """Every tensor in bf16 under its Hugging Face name."""
    names = {old: new for old, new in _TENSORS.items() if old in source.tensors}
    for layer in range(config["num_hidden_layers"]):
        names.update({o.format(i=layer): n.format(i=layer) for o, n in _LAYER_TENSORS.items()})
    unknown = source.tensors.keys() - names.keys()
    if unknown:
        raise gguf_file.GgufError(f"tensors {sorted(unknown)[:4]} have no place in a LLaMA model")

    rotated = {
        ".q_proj.weight": config["num_attention_heads"],
        ".k_proj.weight": config["num_key_value_heads"],
    }
    converted = {}
    for done, (old, new) in enumerate(names.items(), start=1):
        values = source.tensor(old)
        for projection, num_heads in rotated.items():
            if new.endswith(projection):
                values = undo_interleaving(values, num_heads)
        converted[new] = safetensors_io.to_bf16(values)
        progress(done, len(names))
    return converted


def undo_interleaving(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a q or k projection from GGUF's order, in which the two halves of a rotated pair are
    neighbours, to Hugging Face's, in which they are half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _special_ids(metadata: dict[str, Any]) -> list[int]:
    types = metadata["tokenizer.ggml.token_type"]
    return [token_id for token_id, kind in enumerate(types) if kind == _CONTROL_TOKEN]


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
