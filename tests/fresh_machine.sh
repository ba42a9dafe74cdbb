#!/usr/bin/env bash
# A newcomer's first hour, on a machine that has nothing: makes a fresh Debian 12 root, clones this
# repository's HEAD into it, and there, as the README says, starts the server, asks it something,
# starts it again, and runs the tests. Prints how long each took.
#
#   sudo tests/fresh_machine.sh FOLDER              FOLDER must not exist; it is kept
#   sudo tests/fresh_machine.sh FOLDER 'COMMAND'    runs only that, in the clone
#
# Needs root, debootstrap and the network (tests/debian_root.sh). Run by hand: it takes most of an
# hour.
set -euo pipefail

readonly ROOT=${1:?give the folder to make the new root in}
readonly COMMAND=${2:-}
readonly TESTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly SOURCE=$(dirname "$TESTS")
readonly PORT=18080
readonly URL=http://127.0.0.1:$PORT

say() { echo "fresh_machine: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Runs a command line in the clone.
inside() {
  "$TESTS/debian_root.sh" run "$ROOT" "cd treeline && $1"
}

stop_server() {
  [[ -n ${server:-} ]] || return 0
  # `make` and the server under it form the process group of the background job.
  kill -TERM -- "-$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

cleanup() {
  stop_server
  inside 'command -v bazel >/dev/null && bazel shutdown' >/dev/null 2>&1 || true
  "$TESTS/debian_root.sh" unmount "$ROOT"
}

make_root() {
  say "making a Debian 12 root in $ROOT"
  "$TESTS/debian_root.sh" make "$ROOT"
  "$TESTS/debian_root.sh" mount "$ROOT"
  # What the README asks a newcomer to install; curl is this script's own client.
  mkdir -p "$ROOT/root/treeline"
  inside 'apt-get -q update && DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends ca-certificates curl git make' >&2
  git clone -q --no-hardlinks "$SOURCE" "$ROOT/root/clone"
  rmdir "$ROOT/root/treeline"
  mv "$ROOT/root/clone" "$ROOT/root/treeline"
}

# Runs `make serve` and waits until a chat request is answered; prints the seconds both took.
serve_and_ask() {
  local start body
  start=$(date +%s.%N)
  set -m # a process group of its own
  inside "make serve PORT=$PORT" >&2 </dev/null &
  server=$!
  set +m
  body='{"model": "smollm2-135m-instruct-linear", "max_tokens": '$1', "temperature": 0,
         "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
  until curl -sf -o /dev/null "$URL/ready"; do
    kill -0 "$server" 2>/dev/null || fail "make serve ended before it was ready"
    sleep 0.1
  done
  answer=$(curl -sSf "$URL/v1/chat/completions" -H 'Content-Type: application/json' -d "$body") ||
    fail "the chat request failed"
  seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
  stop_server
}

main() {
  [[ ! -e $ROOT ]] || fail "$ROOT exists: remove it first, or name another folder"
  trap cleanup EXIT
  trap 'exit 130' INT TERM
  make_root
  if [[ -n $COMMAND ]]; then
    SECONDS=0
    inside "$COMMAND"
    say "'$COMMAND' took $SECONDS s"
    return
  fi

  serve_and_ask 32
  say "first make serve, to a chat answer: $seconds s"
  say "the answer: $answer"
  [[ $answer == *Paris* ]] || fail "the answer does not name Paris"
  serve_and_ask 1
  say "second make serve, to the first token: $seconds s"
  SECONDS=0
  inside 'make test' >&2 || fail "make test failed after $SECONDS s"
  say "make test: passed in $SECONDS s"
}

main
