#!/usr/bin/env python3
"""Makes the small tokenizers of tests/testdata/tokenizers, in the layouts of models that may not be
passed on, from a text in the public domain:

  llama3         byte-level BPE as Llama-3 has it: its pattern, ignore_merges, special tokens, BOS
  sentencepiece  BPE with byte fallback as Llama-2's tokenizer.model
  llama2         the same as Llama-2's tokenizer.json: Prepend and Replace
  mistral        the same as Mistral's newer tokenizer.json: Metaspace
  qwen2          Qwen2's own vocabulary, cut to its first merges

Needs the packages tokenizers and sentencepiece. Then run tools/make_tokenizer_vectors.py.

  python3 tools/make_test_tokenizers.py --text botchan.txt --qwen2 FOLDER
"""

import argparse
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests/testdata/tokenizers"

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
]
# Tokens that no merges lead to: only ignore_merges finds them.
UNREACHABLE = ["Ġtokenizer", "Ġhere", "lambda", "ĠPython", "Donau", "ä½łå¥½"]
NUM_QWEN2_MERGES = 8000


def make_llama3(text):
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = llama3_pre_tokenizer()
    trained.train(
        [str(text)],
        trainers.BpeTrainer(
            vocab_size=2500,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    vocab = model["vocab"]
    for token in UNREACHABLE:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = llama3_pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(t, normalized=False, special=True) for t in LLAMA3_SPECIAL]
    )
    bos = LLAMA3_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    write(ROOT / "llama3/tokenizer.json", json.loads(tokenizer.to_str()))
    write(
        ROOT / "llama3/tokenizer_config.json",
        {"bos_token": bos, "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"},
    )


def llama3_pre_tokenizer():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def make_sentencepiece(text):
    folder = ROOT / "sentencepiece"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        prefix = str(pathlib.Path(directory) / "model")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=prefix,
            model_type="bpe",
            vocab_size=2000,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["<sep>"],
            num_threads=1,
            minloglevel=2,
        )
        (folder / "tokenizer.model").write_bytes(pathlib.Path(prefix + ".model").read_bytes())


def pieces_of(path):
    """The vocabulary with scores, and the merges in Hugging Face's order."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size = processor.get_piece_size()
    scores = {processor.id_to_piece(i): processor.get_score(i) for i in range(size)}
    vocab = {processor.id_to_piece(i): i for i in range(size)}
    merges = []
    for piece in vocab:
        local = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocab and piece[cut:] in vocab
        ]
        local.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(scores[piece], pair) for pair in local]
    merges.sort(key=lambda merge: merge[0], reverse=True)
    return vocab, [pair for _, pair in merges]


def make_json_styles():
    vocab, merges = pieces_of(ROOT / "sentencepiece/tokenizer.model")
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(t, normalized=False, special=True)
            for t in ["<unk>", "<s>", "</s>"]
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Prepend("▁"),
            tokenizers.normalizers.Replace(" ", "▁"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    write(ROOT / "llama2/tokenizer.json", json.loads(tokenizer.to_str()))
    tokenizer.normalizer = None
    mistral = json.loads(tokenizer.to_str())
    mistral["normalizer"] = None
    mistral["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    write(ROOT / "mistral/tokenizer.json", mistral)


def make_qwen2(source):
    merges = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [m for m in merges if not m.startswith("#version")][:NUM_QWEN2_MERGES]
    full = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    kept = set(pre_tokenizers.ByteLevel.alphabet()) | {"".join(m.split(" ")) for m in merges}
    vocab = {token: i for i, token in enumerate(t for t in full if t in kept)}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    flags = config["added_tokens_decoder"]["151643"] | {}
    config = {k: v for k, v in config.items() if k != "chat_template"}
    config["added_tokens_decoder"] = {
        str(len(vocab) + i): flags | {"content": token} for i, token in enumerate(special)
    }
    folder = ROOT / "qwen2"
    write(folder / "vocab.json", vocab)
    write(folder / "tokenizer_config.json", config)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--qwen2", type=pathlib.Path, required=True)
    args = parser.parse_args()
    make_llama3(args.text)
    make_sentencepiece(args.text)
    make_json_styles()
    make_qwen2(args.qwen2)


if __name__ == "__main__":
    main()
