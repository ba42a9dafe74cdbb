#!/usr/bin/env python3
"""Writes engine/text/nfc_tables.cc from Python's own Unicode data.

Usage: tools/make_nfc_tables.py > engine/text/nfc_tables.cc
"""
import sys
import unicodedata

HANGUL = range(0xAC00, 0xAC00 + 11172)  # Computed, not listed.


def decompositions():
    """(code, first, second, composes) of each character with a canonical mapping."""
    for code in range(sys.maxunicode + 1):
        mapping = unicodedata.decomposition(chr(code))
        if not mapping or mapping.startswith("<") or code in HANGUL:
            continue
        parts = [int(part, 16) for part in mapping.split()]
        composes = unicodedata.normalize("NFC", chr(code)) == chr(code)
        yield code, parts[0], parts[1] if len(parts) > 1 else 0, composes


def combining_ranges():
    """[first, last, class] of the characters whose combining class is not 0."""
    ranges = []
    for code in range(sys.maxunicode + 1):
        combining = unicodedata.combining(chr(code))
        if combining == 0:
            continue
        if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == combining:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, combining])
    return ranges


def print_array(declaration, entries, per_line):
    print(f"{declaration} = {{")
    for begin in range(0, len(entries), per_line):
        print("    " + " ".join(f"{entry}," for entry in entries[begin : begin + per_line]))
    print("};\n")


def main():
    print("// Written by tools/make_nfc_tables.py from Unicode", unicodedata.unidata_version)
    print('#include "engine/text/nfc_tables.h"\n')
    print("namespace treeline::nfc {\n\n// clang-format off\n")
    rows = [f"{{0x{c:X}, 0x{a:X}, 0x{b:X}, {int(k)}}}" for c, a, b, k in decompositions()]
    print_array("const Decomposition kDecompositions[]", rows, 4)
    print("const size_t kNumDecompositions = std::size(kDecompositions);\n")
    rows = [f"{{0x{a:X}, 0x{b:X}, {k}}}" for a, b, k in combining_ranges()]
    print_array("const CombiningRange kCombiningRanges[]", rows, 5)
    print("const size_t kNumCombiningRanges = std::size(kCombiningRanges);\n")
    print("// clang-format on\n\n}  // namespace treeline::nfc")


if __name__ == "__main__":
    main()
