#!/usr/bin/env bash
# Tests that need a GPU, on a machine that has one but perhaps no Bazel and other libraries.
#
#   tools/gpu_tests.sh pack    build them here (needs nvcc, no GPU) into build/gpu_tests, with the
#                              shared libraries they need
#   tools/gpu_tests.sh run     run what was packed, from the repository's root where the GPU is;
#                              SANITIZE=1 adds compute-sanitizer's memcheck of the fastest ones
#
# `run` runs all of them, also after a failure, and ends with `N passed, N failed`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly FOLDER=build/gpu_tests
# These must match the other machine's kernel, loader and driver.
readonly FROM_THE_SYSTEM='^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s)\.so)'

pack() {
  local bazel=(${BAZEL:-bazel}) options=(--config=cuda ${BAZEL_OPTIONS:-})
  local query='attr(tags, gpu, tests(//tests/... + //kernels/...))'
  local targets
  mapfile -t targets < <("${bazel[@]}" query "$query" 2>/dev/null)
  "${bazel[@]}" build "${options[@]}" "${targets[@]}"
  local binaries
  binaries=$("${bazel[@]}" info "${options[@]}" bazel-bin 2>/dev/null)
  rm -rf "$FOLDER"
  mkdir -p "$FOLDER/lib"
  local target binary
  for target in "${targets[@]}"; do
    target=${target#//}
    binary=$binaries/${target/:/\/}
    install -m 755 "$binary" "$FOLDER/"
    strip "$FOLDER/$(basename "$binary")"
    ldd "$binary" | awk -v skip="$FROM_THE_SYSTEM" '$2 == "=>" && $1 !~ skip { print $3 }' |
      xargs -r install -m 644 -t "$FOLDER/lib"
  done
  du -sh "$FOLDER"
}

run() {
  export LD_LIBRARY_PATH=$PWD/$FOLDER/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  local passed=0 failed=0 test
  try() {
    if "$@"; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      echo "FAILED: $*"
    fi
  }
  for test in "$FOLDER"/*_test; do try "$test" --gtest_brief=1; done
  if [[ -n ${SANITIZE:-} ]]; then
    local filter='*cuda:-*Served/*:*Softmax*:*RandomForms*'
    try compute-sanitizer --tool memcheck --error-exitcode 1 \
      "$FOLDER/backend_equivalence_test" --gtest_brief=1 --gtest_filter="$filter"
  fi
  echo "$passed passed, $failed failed"
  ((failed == 0))
}

case ${1:-} in
pack | run) "$1" ;;
*)
  sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac
