#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy) over the C++ sources, or those given. All warnings are errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The defines that //third_party gives its users.
mapfile -t defines < <(sed -nE 's/^ +(defines = \[)?"([A-Z0-9_]+(=[0-9]+)?)",?\]?,?$/-D\2/p' \
  third_party/BUILD)
(($# > 0)) || mapfile -t sources < <(git ls-files '*.cc')
(($# == 0)) || sources=("$@")
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} clang-tidy --quiet {} -- \
  -std=c++20 -I. -Ibazel-bin "${defines[@]}" 2> >(grep -v 'warnings generated' >&2)
