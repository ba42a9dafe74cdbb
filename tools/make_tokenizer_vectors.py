#!/usr/bin/env python3
"""Writes tests/testdata/tokenizers: texts.json, nfc.json, and each tokenizer's vectors.json.

The ids are those of Hugging Face's tokenizers package and, for a tokenizer.model, of Google's
sentencepiece (pip install tokenizers sentencepiece). texts.json is made only where it is missing,
from the texts below and from lines of --lines (the raw test split of WikiText-2); delete it to
draw anew.

  python3 tools/make_tokenizer_vectors.py --lines wiki.test.raw
"""

import argparse
import json
import pathlib
import random
import unicodedata

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests/testdata/tokenizers"

TEXTS = [
    # Contractions, in every case and with other apostrophes.
    "I'm you're he's we've they'll I'd don't", "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T",
    "'s't're've'm'll'd", "it’s John’s", "''s ' s 'S '", "rock'n'roll o'clock 'tis",
    # Digits and numbers of other scripts.
    "0123456789", "3.14159 1,000,000 1e-10 0x1F", "2024-07-26T12:00:00Z", "v1.2.3-rc4",
    "x1y22z333", "½ ¼ ² ³ Ⅷ ⅻ ①②③", "٣٤٥ १२३ ๑๒๓ 一二三", "𝟘𝟙𝟚 🄀",
    # White space.
    " ", "  ", "   ", "    a", "a    ", "a    b", "\n", "\n\n", " \n ", "\n \n", "\t\t\tx",
    "a\r\nb\r\n", "\r", "\v\f", "line\n\n\n\nline", "  \n  \n  indented",
    "a\u00a0b", "a\u2003b\u3000c", "\u2028\u2029", "\u0085next", "\u1680x\u202fy\u205fz",
    "mongolian\u180evowel separator", "zero\u200bwidth\u200djoiner\ufeffbom", " \u00a0 \u00a0",
    "a" + " " * 64 + "b", "\n" * 33, "\t \t \t ", "\x1c\x1d\x1e\x1f", "trailing space \n",
    # Controls.
    "\x00", "nul\x00inside", "\x01\x02\x03\x7f", "bell\x07 escape\x1b[31mred\x1b[0m",
    # Code.
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) { sum += a[i]; }",
    "if (a && b || !c) *p++ = ~q;", "#include <vector>\n\nint main() { return 0; }\n",
    "SELECT * FROM t WHERE a = 'x' AND b <> \"y\";", "{\"key\": [1, 2.5, null], \"k\": \"v\"}",
    "<div class=\"a\">&nbsp;</div>", "$ git commit -m 'fix: it' && git push", "C:\\Users\\x\\n",
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "snake_case camelCase",
    "lambda x: {**x, 'y': [*z]}", "λx.x → y ∀ε>0 ∃δ", "∑_{i=1}^{n} i² = n(n+1)(2n+1)/6",
    "```python\nprint('hi')\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "- [ ] todo\n- [x] done",
    # Emoji, with modifiers, joiners, flags and keycaps.
    "😀", "👍🏽👍🏿", "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇨🇭🇯🇵", "1️⃣2️⃣#️⃣", "❤️ ❤ ♥", "🦙🦙🦙 llamas", "text🙂text",
    # Scripts.
    "你好，世界！", "今天天气很好。我们去公园吧？", "日本語のテキストとカタカナ", "한국어 텍스트입니다",
    "ภาษาไทยไม่มีช่องว่าง", "Привет, как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "வணக்கம்", "Tiếng Việt có dấu", "Ünïcödé ñandú façade œuvre", "ꙮ ﷽ 𒐫",
    "e\u0301 combining vs \u00e9", "Z\u0351\u0343a\u0361l\u0338g\u0327o", "ﬁ ﬂ ſ ẞ ß",
    "𝓕𝓪𝓷𝓬𝔂 𝕿𝖊𝖝𝖙", "ＦＵＬＬ　ＷＩＤＴＨ", "\u202eright to left\u202c", "\ue000 private \U0010ffff last",
    "\ufffd replacement \ufffe", "𐍈𐌰𐌹", "Ġ Ċ ĉ are letters", "âĢĻ",
    # Repetition and length.
    "a" * 300, "ab" * 150, "!" * 100, "-" * 80, "=" * 40 + "\n" + "=" * 40, "aA" * 50,
    "Donaudampfschifffahrtsgesellschaftskapitän", "antidisestablishmentarianism",
    "ALL CAPS SENTENCE HERE.", "MiXeD CaSe WoRdS", "...", "…", "?!?!", "--", "—", "(((nested)))",
    # Special tokens written out.
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|",
    "<<|im_end|>>", "<|im_end|><|im_end|>", "<|endoftext|> <|endoftext|>", "<repo_name>x<file_sep>",
    "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n",
]


def draw_texts(lines_path):
    rng = random.Random(20240726)
    lines = [l.strip() for l in lines_path.read_text(encoding="utf-8").splitlines()]
    texts = TEXTS + rng.sample([l[:300] for l in lines if len(l) > 40], 40)
    # Characters of every block, so every byte that UTF-8 can hold, in random order.
    for count in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] * 2:
        limit = rng.choice([0x80, 0x800, 0x10000, 0x110000])
        points = [rng.randrange(limit) for _ in range(count)]
        texts.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
    # Fragments joined without regard for their borders.
    pieces = [t for t in TEXTS if len(t) < 12]
    texts += ["".join(rng.choices(pieces, k=8)) for _ in range(20)]
    return texts


# Texts for one tokenizer alone.
OWN_TEXTS = {
    "llama3": [
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there!<|eot_id|>",
        " tokenizer here lambda Python Donau 你好",
        "tokenizer There lambdas  Python",
    ],
    "qwen2": ["e\u0301<|im_start|>o\u0308\u0301 \u1112\u1161\u11ab", "\u212b \u0344 q\u0323\u0307 \u0958"],
    "sentencepiece": ["a<sep>b <sep> <sep><sep>", "<s>a</s>", "<0x0A>", "▁a ▁ b", "<unk>x<unk>"],
    "unigram": ["<s>a</s>", "ﷺ ㌀ ① Ａ\u3000ｶﾞ", " \u200b ", "<unk>"],
    "llama2": ["<s>a</s> b<s> c", "<s>", "<s> a", "a<unk>b", "▁a ▁ b"],
    "mistral": ["<s>a</s> b<s> c", "<s>", "<s> a", "a<unk>b", "▁a ▁ b"],
}
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load(folder):
    if (folder / "tokenizer.json").exists():
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = tokenizers.Tokenizer(
        models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    if folder.name == "qwen2":
        special += ["<|im_start|>", "<|im_end|>"]
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_special_tokens(special)
    return tokenizer


def encode(tokenizer, text, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=False).ids


def huggingface_vector(tokenizer, text):
    """The ids with special tokens as plain text and, where they differ, with them found."""
    ids = {"plain": encode(tokenizer, text, False), "special": encode(tokenizer, text, True)}
    if ids["special"] == ids["plain"]:
        del ids["special"]
    return ids


def sentencepiece_vector(processor, text):
    """The ids and, where it is another, the text that they decode to, if they are all known."""
    ids = {"plain": processor.encode(text)}
    decoded = processor.decode(ids["plain"])
    is_known = processor.unk_id() not in ids["plain"]
    return ids | {"decoded": decoded} if is_known and decoded != text else ids


def nfc_cases(texts):
    """Every character that changes, random runs of marks, and the texts above."""
    rng = random.Random(9)
    marks = [chr(c) for c in range(0x300, 0x1200) if unicodedata.combining(chr(c))]
    starters = "aeoqAΩяक한ᄒ각ᅡ각\u09c7\u0f71\u1b05"
    cases = texts + [
        "".join(rng.choices(starters, k=2)) + "".join(rng.choices(marks + list(starters), k=5))
        for _ in range(300)
    ]
    every = [chr(c) for c in range(0x110000)
             if not 0xD800 <= c < 0xE000 and unicodedata.normalize("NFD", chr(c)) != chr(c)]
    every = [c for c in every if not 0xAC00 <= ord(c) < 0xD7A4 or rng.random() < 0.01]
    decomposed = [unicodedata.normalize("NFD", c) for c in every]
    cases += ["|".join(every[i:i + 40]) for i in range(0, len(every), 40)]
    cases += ["|".join(decomposed[i:i + 40]) for i in range(0, len(every), 40)]
    return [[c, unicodedata.normalize("NFC", c)] for c in cases]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=pathlib.Path, help="text whose lines are drawn from")
    args = parser.parse_args()
    texts_path = ROOT / "texts.json"
    if not texts_path.exists():
        if args.lines is None:
            parser.error("texts.json is missing: --lines is needed")
        write(texts_path, draw_texts(args.lines))
    texts = json.loads(texts_path.read_text(encoding="utf-8"))
    write(ROOT / "nfc.json", nfc_cases(texts))
    for name in ["smollm2", "gpt2", "llama3", "qwen2", "llama2", "mistral"]:
        write_vectors(name, texts, load(ROOT / name), huggingface_vector)
    for name in ["sentencepiece", "unigram"]:
        path = str(ROOT / name / "tokenizer.model")
        processor = sentencepiece.SentencePieceProcessor(model_file=path)
        write_vectors(name, texts, processor, sentencepiece_vector)


def write_vectors(name, texts, tokenizer, vector):
    vectors = [vector(tokenizer, t) for t in texts]
    vectors += [{"text": t} | vector(tokenizer, t) for t in OWN_TEXTS.get(name, [])]
    write(ROOT / name / "vectors.json", vectors)


def write(path, values):
    lines = ",\n".join(json.dumps(v, separators=(",", ":")) for v in values)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
