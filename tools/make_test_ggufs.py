#!/usr/bin/env python3
"""Writes tests/testdata/gguf with ggml's own Python package: GGUF files of the small checkpoints, a
model of every quantised type, and blocks of each with their values. And seeds for fuzzing.

Needs the package `gguf` (made with 0.19). The rows of q and k are reordered for architecture
"llama" as llama.cpp's converter does.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import gguf
import numpy as np

import make_test_checkpoints
import safetensors_io
from oracle import checkpoint, model, rope

_TESTS = pathlib.Path(__file__).parent.parent / "tests"
_TESTDATA = _TESTS / "testdata"
_SEEDS = _TESTS / "fuzz/seeds/gguf_fuzz"
_Type = gguf.GGMLQuantizationType
_SMALL_TYPES = (_Type.Q4_0, _Type.Q4_1, _Type.Q5_0, _Type.Q5_1, _Type.Q8_0)
_K_TYPES = (_Type.Q2_K, _Type.Q3_K, _Type.Q4_K, _Type.Q5_K, _Type.Q6_K)
# Where the fp16 scales of a block are, by type.
_SCALES_AT = {
    _Type.Q4_0: (0,), _Type.Q4_1: (0, 2), _Type.Q5_0: (0,), _Type.Q5_1: (0, 2), _Type.Q8_0: (0,),
    _Type.Q2_K: (80, 82), _Type.Q3_K: (108,), _Type.Q4_K: (0, 2), _Type.Q5_K: (0, 2),
    _Type.Q6_K: (208,),
}  # fmt: skip

# GGUF name -> Hugging Face name; in layers behind "blk.N." and "model.layers.N.".
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# One layer for each pair of types: small ones in rows of 32, K types in rows of 256.
_QUANTIZED = checkpoint.Shape(
    32, len(_K_TYPES), heads=4, kv_heads=2, linear_attention=None, seed=11,
    explicit_intermediate_size=256,
)  # fmt: skip


def gguf_name(name: str) -> str:
    """blk.0.attn_q.weight for model.layers.0.self_attn.q_proj.weight."""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, rest = stem.removeprefix("model.layers.").split(".", 1)
        old = next(old for old, new in _LAYER_NAMES.items() if new == rest)
        return f"blk.{layer}.{old}.{kind}"
    return f"{next(old for old, new in _NAMES.items() if new == stem)}.{kind}"


def heads_of(name: str, config: dict[str, Any]) -> int | None:
    """The heads of a tensor whose rows are reordered; None for others."""
    if config["model_type"] == "qwen2":
        return None
    if ".q_proj." in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if ".k_proj." in name else None


def interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """The two rows of each rotated pair side by side."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def write(
    path: pathlib.Path,
    config: dict[str, Any],
    tensors: dict[str, tuple[np.ndarray, _Type]],
) -> None:
    """`tensors`: stored values in Hugging Face's order, quantised ones as bytes, and their type."""
    architecture = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    _add_shape(writer, config)
    _add_rope(writer, config)
    _add_tokenizer(writer)
    for name, (values, kind) in tensors.items():
        heads = heads_of(name, config)
        values = values if heads is None else interleave(values, heads)
        writer.add_tensor(gguf_name(name), values, raw_dtype=kind)
    if (config["rope_scaling"] or {}).get("rope_type") == "llama3":
        plain, _ = rope.frequencies({**config, "rope_scaling": None})
        scaled, _ = rope.frequencies(config)
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def _add_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_rope_freq_base(config["rope_theta"])
    scaling = config["rope_scaling"] or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer, settings = checkpoint.tokenizer(), checkpoint.tokenizer_config()
    vocabulary = tokenizer["model"]["vocab"]
    special = set(checkpoint.SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary))
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(vocabulary[settings["bos_token"]])
    writer.add_eos_token_id(vocabulary[settings["eos_token"]])
    writer.add_unk_token_id(vocabulary[settings["unk_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])


def convert(folder: pathlib.Path, path: pathlib.Path) -> None:
    """A bf16 checkpoint's own weights, bit for bit."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored, _ = safetensors_io.load(folder / "model.safetensors")
    tensors = {}
    for name, values in stored.items():
        values = np.ascontiguousarray(values, dtype=np.float32)
        if values.ndim == 1:  # llama.cpp takes vectors in float32 alone.
            tensors[name] = (values, _Type.F32)
            continue
        encoded = gguf.quantize(values, _Type.BF16)
        if not np.array_equal(gguf.dequantize(encoded, _Type.BF16), values):
            raise SystemExit(f"{folder.name}: {name} is not bf16")
        tensors[name] = (encoded, _Type.BF16)
    write(path, config, tensors)


def random_blocks(
    rng: np.random.Generator, rows: int, columns: int, kind: _Type, unit: float
) -> np.ndarray:
    """Rows of random bits, all of them legal blocks, with scales of about `unit`."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, columns // weights, size), dtype=np.uint8)
    for offset in _SCALES_AT[kind]:
        scales = unit * rng.uniform(0.5, 1.5, (rows, columns // weights, 1))
        # Minima are added by the small types and subtracted by the K types.
        sign = -8.0 if offset > 0 and kind in _SMALL_TYPES else 1.0
        blocks[..., offset : offset + 2] = (sign * scales).astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def make_quantized(path: pathlib.Path) -> dict[str, Any]:
    """A model with a layer for each pair of a small and a K type. Returns its oracle.json, computed
    from the values that ggml's package makes of the blocks."""
    config = checkpoint.config(_QUANTIZED)
    rng = np.random.default_rng(_QUANTIZED.seed)
    tensors, values = {}, {}
    for name, drawn in checkpoint.draw_weights(_QUANTIZED).items():
        if drawn.ndim == 1:
            tensors[name], values[name] = (drawn, _Type.F32), drawn
            continue
        layer = int(name.split(".")[2]) if "layers" in name else 4
        if "down_proj" in name:
            kind = _K_TYPES[layer]
            trial = gguf.dequantize(random_blocks(rng, 8, drawn.shape[1], kind, 1.0), kind)
            unit = drawn.std() / trial.std()
            encoded = random_blocks(rng, *drawn.shape, kind, unit)
        else:
            kind = _SMALL_TYPES[layer]
            encoded = gguf.quantize(drawn, kind)
        tensors[name], values[name] = (encoded, kind), gguf.dequantize(encoded, kind)
    write(path, config, tensors)
    loaded = model.build(config, values)
    return make_test_checkpoints.make_oracle(loaded, _QUANTIZED.seed)


def make_blocks(path: pathlib.Path, values_path: pathlib.Path) -> None:
    """Two rows of random blocks of each type, and their values."""
    rng = np.random.default_rng(12)
    writer = gguf.GGUFWriter(path, "blocks")
    values = {}
    for kind in (*_SMALL_TYPES, *_K_TYPES):
        columns = 2 * gguf.GGML_QUANT_SIZES[kind][0]
        blocks = random_blocks(rng, 2, columns, kind, 0.01)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        values[kind.name] = gguf.dequantize(blocks, kind)
    for kind in (_Type.F32, _Type.F16, _Type.BF16):
        stored = gguf.quantize(rng.standard_normal((2, 8)).astype(np.float32), kind)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        values[kind.name] = gguf.dequantize(stored, kind).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    safetensors_io.save(values_path, values)


def make_seed(path: pathlib.Path, **changes: Any) -> None:
    """As small a model as there is."""
    shape = checkpoint.Shape(8, 1, heads=2, kv_heads=1, linear_attention=None, seed=13, **changes)
    drawn = checkpoint.draw_weights(shape).items()
    write(path, checkpoint.config(shape), {name: (values, _Type.F32) for name, values in drawn})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=_TESTDATA / "gguf", metavar="DIR")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in ("softmax", "llama3_biases", "qwen2_yarn", "mistral_linear"):
        convert(_TESTDATA / "checkpoints" / name, args.output / f"{name}.gguf")
    oracle = make_quantized(args.output / "quantized.gguf")
    text = json.dumps(oracle, separators=(",", ":")) + "\n"
    (args.output / "quantized_oracle.json").write_text(text, encoding="utf-8")
    _SEEDS.mkdir(parents=True, exist_ok=True)
    llama3 = make_test_checkpoints.CHECKPOINTS["llama3_biases"].rope_scaling
    yarn = make_test_checkpoints.CHECKPOINTS["qwen2_yarn"].rope_scaling
    make_seed(_SEEDS / "llama.gguf", rope_scaling=llama3, extra={"attention_bias": True})
    make_seed(_SEEDS / "qwen2.gguf", rope_scaling=yarn, model_type="qwen2", tied=False)
    make_blocks(args.output / "blocks.gguf", args.output / "blocks_values.safetensors")


if __name__ == "__main__":
    main()
