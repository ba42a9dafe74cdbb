#!/usr/bin/env bash
# A newcomer's first hour, on a machine that has nothing: makes a fresh Debian 12 root, clones this
# repository's HEAD into it, and there, as the README says, starts the server, asks it something,
# starts it again, and runs the tests. Prints how long each took.
#
#   sudo tests/fresh_machine.sh FOLDER              FOLDER must not exist; it is kept
#   sudo tests/fresh_machine.sh FOLDER 'COMMAND'    runs only that, in the clone
#
# Needs root, debootstrap and the network. The package clients' configuration of this machine (apt,
# pip, certificates, name resolution) is copied in. Run by hand: it takes most of an hour.
set -euo pipefail

readonly ROOT=${1:?give the folder to make the new root in}
readonly COMMAND=${2:-}
readonly SOURCE=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
readonly PORT=18080
readonly URL=http://127.0.0.1:$PORT

say() { echo "fresh_machine: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Runs a command line in the clone, in a login-like environment of its own.
inside() {
  env -i HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "${PACKAGE_CLIENT_ENVIRONMENT[@]}" nice -n 10 chroot "$ROOT" bash -c "cd /root/treeline && $1"
}

mount_system() {
  mount -t proc proc "$ROOT/proc"
  mount -t sysfs -o ro sysfs "$ROOT/sys"
  mount --rbind --make-rslave /dev "$ROOT/dev"
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
  local path
  for path in dev sys proc; do
    mountpoint -q "$ROOT/$path" && umount -R -l "$ROOT/$path"
  done
}

copy_package_client_configuration() {
  local path
  rm -f "$ROOT/etc/apt/sources.list" # debootstrap's
  for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/keyrings \
    /etc/apt/trusted.gpg.d /etc/apt/apt.conf.d /etc/apt/preferences.d /etc/apt/auth.conf.d \
    /etc/pip.conf /root/.config/pip /usr/local/share/ca-certificates /etc/ssl/certs \
    /etc/resolv.conf /etc/hosts; do
    [[ -e $path ]] || continue
    mkdir -p "$ROOT$(dirname "$path")"
    rm -rf "${ROOT:?}$path"
    cp -rL --preserve=mode "$path" "$ROOT$path" 2>/dev/null || true # dangling links
  done
  # Hooks of programs that a fresh root does not have.
  rm -f "$ROOT"/etc/apt/apt.conf.d/{20packagekit,50appstream}
  mapfile -t PACKAGE_CLIENT_ENVIRONMENT < <(env |
    grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=|(http|https|no)_proxy=)' |
    grep -v '^PIP_FIND_LINKS=')
}

make_root() {
  say "making a Debian 12 root in $ROOT"
  debootstrap --variant=minbase bookworm "$ROOT" >"$ROOT.log" 2>&1 ||
    fail "debootstrap failed; see $ROOT.log"
  copy_package_client_configuration
  mount_system
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
  body='{"model": "SmolLM2-135M-Instruct", "max_tokens": '$1', "temperature": 0,
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
  ((EUID == 0)) || fail "needs root (chroot and mounts)"
  command -v debootstrap >/dev/null || fail "needs debootstrap: apt-get install debootstrap"
  [[ $ROOT == /* ]] || fail "give an absolute path, not $ROOT"
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
