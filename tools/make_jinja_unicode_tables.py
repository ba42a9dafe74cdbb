#!/usr/bin/env python3
"""Writes engine/text/jinja/unicode_tables.cc from Python's own Unicode data.

Usage: tools/make_jinja_unicode_tables.py > engine/text/jinja/unicode_tables.cc

What str.isprintable, str.upper and str.lower say in the Python that runs it, so that the
templates' repr and case filters agree with Jinja2. Mappings to more than one character
("ß" to "SS") are left out.
"""
import sys
import unicodedata


def ranges_without(predicate):
    ranges = []
    for code in range(sys.maxunicode + 1):
        if predicate(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges


def case_ranges(convert):
    """[first, last, stride, delta]: every stride-th character maps to itself + delta."""
    ranges = []
    for code in range(sys.maxunicode + 1):
        mapped = convert(chr(code))
        if len(mapped) != 1 or ord(mapped) == code:
            continue
        delta = ord(mapped) - code
        if ranges:
            first, last, stride, last_delta = ranges[-1]
            step = code - last
            if last_delta == delta and step <= 2 and (first == last or step == stride):
                ranges[-1] = [first, code, step, delta]
                continue
        ranges.append([code, code, 1, delta])
    return ranges


def print_table(declaration, rows):
    print(f"{declaration} = {{{{")
    line = "   "
    for row in rows:
        cell = " {" + ", ".join(row) + "},"
        if len(line) + len(cell) > 100:
            print(line)
            line = "   "
        line += cell
    print(line + "\n}};\n")


def main():
    print(f"// Written by tools/make_jinja_unicode_tables.py (Unicode {unicodedata.unidata_version}).")
    print("// clang-format off")
    print('#include "engine/text/jinja/unicode_tables.h"\n')
    print("namespace treeline::jinja {\n")
    unprintable = ranges_without(str.isprintable)
    print_table(
        f"const std::array<CodeRange, {len(unprintable)}> kUnprintable",
        [(hex(first), hex(last)) for first, last in unprintable],
    )
    for name, convert in (("kToUpper", str.upper), ("kToLower", str.lower)):
        rows = case_ranges(convert)
        print_table(
            f"const std::array<CaseRange, {len(rows)}> {name}",
            [(hex(first), hex(last), str(stride), str(delta)) for first, last, stride, delta in rows],
        )
    print("}  // namespace treeline::jinja")


if __name__ == "__main__":
    main()
