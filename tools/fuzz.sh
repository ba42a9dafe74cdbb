#!/usr/bin/env bash
# Runs each libFuzzer target (Bazel targets tagged `fuzz`) for FUZZ_SECONDS, default 60, and stops
# at the first that finds something. What a target learns is kept in build/fuzz/NAME/corpus; the
# input that broke it is left in build/fuzz/NAME. Seeds are read from tests/fuzz/seeds/NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly BAZEL=${BAZEL:-bazel}
readonly SECONDS_EACH=${FUZZ_SECONDS:-60}
# Of one input. Sanitizers take seconds for a template that uses up its limits.
readonly SECONDS_AN_INPUT=30

mapfile -t targets < <($BAZEL query --noshow_progress 'attr(tags, "\bfuzz\b", //tests/fuzz/...)')
$BAZEL build --config=fuzz "${targets[@]}"
for target in "${targets[@]}"; do
  name=${target##*:}
  work=build/fuzz/$name
  mkdir -p "$work/corpus"
  install -m 755 "bazel-bin/tests/fuzz/$name" "$work/"
  seeds=()
  [[ ! -d tests/fuzz/seeds/$name ]] || seeds=("tests/fuzz/seeds/$name")
  echo "== $name, $SECONDS_EACH s"
  "$work/$name" -max_total_time="$SECONDS_EACH" -timeout="$SECONDS_AN_INPUT" -rss_limit_mb=2048 \
    -print_final_stats=1 -print_funcs=0 -verbosity=0 -artifact_prefix="$work/" "$work/corpus" "${seeds[@]}" ||
    { echo "fuzz: $name failed; its input is in $work" >&2 && exit 1; }
done
