#!/usr/bin/env bash
# A fresh Debian 12 in a folder, for tests that need a machine with nothing on it:
#
#   tests/debian_root.sh make ROOT              makes it; ROOT must not exist
#   tests/debian_root.sh mount ROOT             gives it /proc, /sys and /dev
#   tests/debian_root.sh run ROOT COMMAND       runs a command line there, as root in /root
#   tests/debian_root.sh unmount ROOT
#
# Needs root, debootstrap and the network. The package clients' configuration of this machine (apt,
# pip, certificates, name resolution) is copied in.
set -euo pipefail

readonly ACTION=${1:?make, mount, run or unmount}
readonly ROOT=${2:?give the folder of the root}

fail() {
  echo "debian_root: $*" >&2
  exit 1
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
}

make_root() {
  ((EUID == 0)) || fail "needs root (chroot and mounts)"
  command -v debootstrap >/dev/null || fail "needs debootstrap: apt-get install debootstrap"
  [[ $ROOT == /* ]] || fail "give an absolute path, not $ROOT"
  [[ ! -e $ROOT ]] || fail "$ROOT exists: remove it first, or name another folder"
  debootstrap --variant=minbase bookworm "$ROOT" >"$ROOT.log" 2>&1 ||
    fail "debootstrap failed; see $ROOT.log"
  copy_package_client_configuration
}

mount_system() {
  mount -t proc proc "$ROOT/proc"
  mount -t sysfs -o ro sysfs "$ROOT/sys"
  mount --rbind --make-rslave /dev "$ROOT/dev"
}

unmount_system() {
  local path
  for path in dev sys proc; do
    ! mountpoint -q "$ROOT/$path" || umount -R -l "$ROOT/$path"
  done
}

# A login-like environment of its own.
run() {
  local client_environment
  mapfile -t client_environment < <(env |
    grep -E '^(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=|(http|https|no)_proxy=)' |
    grep -v '^PIP_FIND_LINKS=')
  exec env -i HOME=/root TERM=dumb LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    "${client_environment[@]}" nice -n 10 chroot "$ROOT" bash -c "cd /root && $1"
}

case $ACTION in
  make) make_root ;;
  mount) mount_system ;;
  run) run "${3:?give a command line}" ;;
  unmount) unmount_system ;;
  *) fail "unknown action '$ACTION'" ;;
esac
