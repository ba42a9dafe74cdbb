#!/usr/bin/env python3
"""Writes a checkpoint of any size that nobody trained: a Hugging Face folder with random F16
weights in shards and a byte-level tokenizer, to try loading and serving at real size.

    tools/random_checkpoint.py 7b.json /tmp/7b
    treeline serve --model /tmp/7b

The first argument is a config.json, by whatever name, as `treeline bench --random-weights` takes
it. Tensors are slices of one block of random values, so that writing is as fast as the disk.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import pathlib
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from oracle import checkpoint
from oracle.attention import AttentionSpec

# Of random values there are a prime number, so that no two rows of a matrix are the same ones.
_NUM_VALUES = 8_388_593
_DEVIATION = 0.02  # Where the configuration has no initializer_range: the one of LLaMA.
_ALIGNMENT = 8  # Of a safetensors file's data.

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a LLaMA, Mistral or Qwen2 of this configuration."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, vocab = config["num_attention_heads"], config["vocab_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention_bias = config.get("attention_bias", False)
    qkv_bias = attention_bias or config["model_type"] == "qwen2"
    mlp_bias = config.get("mlp_bias", False)
    products = {
        "self_attn.q_proj": (heads * head_dim, hidden, qkv_bias),
        "self_attn.k_proj": (kv_heads * head_dim, hidden, qkv_bias),
        "self_attn.v_proj": (kv_heads * head_dim, hidden, qkv_bias),
        "self_attn.o_proj": (hidden, heads * head_dim, attention_bias),
        "mlp.gate_proj": (ffn, hidden, mlp_bias),
        "mlp.up_proj": (ffn, hidden, mlp_bias),
        "mlp.down_proj": (hidden, ffn, mlp_bias),
    }
    num_layers = config["num_hidden_layers"]
    block = config.get("linear_attention")
    specs = AttentionSpec.for_layers(block, num_layers) if block else [None] * num_layers

    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer, spec in enumerate(specs):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{norm}.weight"] = (hidden,)
        for name, (rows, columns, bias) in products.items():
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        if spec:
            for name, shape in _form_shapes(spec, heads, kv_heads, head_dim).items():
                shapes[f"{prefix}self_attn.{name}"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _form_shapes(spec: AttentionSpec, heads: int, kv_heads: int, head_dim: int) -> Shapes:
    """What the attention's form has learned beside its products."""
    shapes: Shapes = {}
    if spec.denominator == "joint":
        shapes["linear_factor"] = (heads,)
    if spec.alpha == "learned":
        shapes["global_factor"] = (1,)
    if spec.decay == "head":
        shapes["decay"] = (kv_heads,)
    if spec.feature_map == "hedgehog":
        half = spec.features(head_dim) // 2
        shapes["feature_map_q.weight"] = (heads, head_dim, half)
        shapes["feature_map_k.weight"] = (kv_heads, head_dim, half)
    if spec.conv_kernel:
        shapes["dwconv.weight"] = (heads, 1, spec.conv_kernel, 1)
    return shapes


def split_into_shards(shapes: Shapes, max_bytes: int) -> list[Shapes]:
    """In order, each of at most so many bytes, or of one tensor that is larger."""
    shards: list[Shapes] = [{}]
    size = 0
    for name, shape in shapes.items():
        num_bytes = 2 * math.prod(shape)
        if shards[-1] and size + num_bytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += num_bytes
    return shards


class RandomTensors:
    """F16 values of any tensor, in pieces; the same for the same seed and tensor."""

    def __init__(self, deviation: float, seed: int):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal(_NUM_VALUES, dtype=np.float32) * np.float32(deviation)
        self._weights = values.astype("<f2")
        self._norms = (1 + values).astype("<f2")
        self._seed = seed

    def pieces(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Norms around 1, all else around 0, from a place in the block that goes with the name."""
        block = self._norms if name.endswith("norm.weight") else self._weights
        start = int(np.random.default_rng([self._seed, *name.encode()]).integers(_NUM_VALUES))
        left = math.prod(shape)
        while left > 0:
            piece = block[start : start + left]
            yield piece
            left -= len(piece)
            start = 0


def write_shard(path: pathlib.Path, shapes: Shapes, tensors: RandomTensors) -> None:
    """One safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape in shapes.items():
            for piece in tensors.pieces(name, shape):
                file.write(piece.data)


def tokenizer(vocab_size: int) -> dict[str, Any]:
    """Bytes and a few merges, which is what text becomes, and a name for every other id, so that
    what such a model says can be read."""
    content = checkpoint.tokenizer()
    vocab = content["model"]["vocab"]
    if vocab_size < len(vocab):
        raise ValueError(f"vocab_size is {vocab_size}; the tokenizer needs {len(vocab)}")
    vocab.update({f"Ġ#{token_id}": token_id for token_id in range(len(vocab), vocab_size)})
    return content


def write(folder: pathlib.Path, config: dict[str, Any], max_shard_bytes: int, seed: int) -> None:
    """Writes the checkpoint into the folder, which is made. Shards are written side by side."""
    documents = {
        "config.json": {**config, "torch_dtype": "float16"},
        "tokenizer.json": tokenizer(config["vocab_size"]),
        "tokenizer_config.json": checkpoint.tokenizer_config(),
    }
    shapes = tensor_shapes(config)
    shards = split_into_shards(shapes, max_shard_bytes)
    files = {f"model-{i:05}-of-{len(shards):05}.safetensors": shard
             for i, shard in enumerate(shards, 1)}
    total_size = sum(2 * math.prod(shape) for shape in shapes.values())
    documents["model.safetensors.index.json"] = {
        "metadata": {"total_size": total_size},
        "weight_map": {name: file for file, shard in files.items() for name in shard},
    }
    folder.mkdir(parents=True)
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    start = time.monotonic()
    tensors = RandomTensors(config.get("initializer_range", _DEVIATION), seed)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        writing = [pool.submit(write_shard, folder / name, shard, tensors)
                   for name, shard in files.items()]
        for done, shard in enumerate(concurrent.futures.as_completed(writing), 1):
            shard.result()
            seconds = time.monotonic() - start
            print(f"{done} of {len(shards)} shards, {seconds:.1f} s", file=sys.stderr, flush=True)
    print(f"{folder}: {total_size / 1e9:.2f} GB in {len(shards)} shards", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=pathlib.Path, help="the shape: a config.json")
    parser.add_argument("output", type=pathlib.Path, help="a folder that does not exist yet")
    parser.add_argument("--max-shard-gb", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
        write(args.output, config, int(args.max_shard_gb * 1e9), args.seed)
    except KeyError as error:
        sys.exit(f"{args.config}: {error} is missing")
    except (OSError, ValueError) as error:
        sys.exit(f"{args.config}: {error}")


if __name__ == "__main__":
    main()
