#!/usr/bin/env bash
# Builds and runs the kernel benchmarks: the Bazel targets tagged `benchmark`, except those that
# need a GPU. Timings mean something on an otherwise idle machine only. Extra arguments go to each
# benchmark, --benchmark_filter=REGEX for one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly BAZEL=${BAZEL:-bazel}

mapfile -t targets < <($BAZEL query --noshow_progress \
  'attr(tags, "\bbenchmark\b", //...) except attr(tags, "\bgpu\b", //...)')
if ((${#targets[@]} == 0)); then
  echo "bench: no target is tagged benchmark" >&2
  exit 1
fi
$BAZEL build "${targets[@]}"
for target in "${targets[@]}"; do
  echo "== $target"
  path=${target#//}
  "bazel-bin/${path/://}" "$@"
done
