#!/usr/bin/env bash
# Runs the C++ tests (Bazel) and the Python ones (pytest: the tools' own, and the official openai
# client against the server), all of them even where one fails. Ends with `N passed, N failed`, and
# fails where a test did. `make test` calls it after setting everything up.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly REPORTS=build/test_reports
rm -rf "$REPORTS"
mkdir -p "$REPORTS"

"${BAZEL:-bazel}" test --keep_going --test_tag_filters=-gpu,-benchmark,-fuzz \
  --build_tag_filters=-gpu,-fuzz --build_event_json_file="$REPORTS/bazel.json" \
  --test_env=TREELINE_MODEL="$DEFAULT_BASE" //... //tests:default_model_test
bazel_status=$?

TREELINE_BIN=$PWD/$SERVER TREELINE_MODEL=$DEFAULT_MODEL \
  .venv/bin/python -m pytest -q -p no:cacheprovider --junitxml="$REPORTS/pytest.xml" \
  tools tests/e2e
pytest_status=$?

.venv/bin/python tools/count_tests.py \
  "$REPORTS/bazel.json" $bazel_status "$REPORTS/pytest.xml" $pytest_status
