#!/usr/bin/env bash
# Packs the server into dist/treeline-linux-ARCH.tar.gz, or -ARCH-cuda.tar.gz where BACKEND is cuda:
# the binary, the shared libraries it needs beyond glibc and libstdc++ in lib/ (found through the
# binary's own rpath), their licences, the example configurations and our licence. The CUDA server
# holds CUDA's runtime and opens the driver and cuBLASLt when it starts. Then unpacks it elsewhere,
# starts it, and says what it needs of glibc and libstdc++. Outside a git checkout SOURCE_DATE_EPOCH
# tells the time of the files in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BACKEND=${BACKEND:-cpu}
FLAVOUR=${BACKEND#cpu}
readonly NAME=treeline-linux-$(uname -m)${FLAVOUR:+-$FLAVOUR}
readonly STAGE=build/dist/$NAME
readonly ARCHIVE=dist/$NAME.tar.gz
# Every Linux with a C++ compiler's runtime has these; they must match its kernel and loader.
readonly FROM_THE_SYSTEM='^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s)\.so)'

# Prints the paths of the shared libraries of a binary, except those of the system.
bundled_libraries() {
  ldd "$1" | awk -v skip="$FROM_THE_SYSTEM" '$2 == "=>" && $1 !~ skip { print $3 }'
}

copy_library() {
  install -m 644 "$1" "$STAGE/lib/"
  # By file name: a package may list /lib/... for what is found as /usr/lib/...
  local package
  package=$(dpkg-query -S "*/$(basename "$(realpath "$1")")" | head -n 1 | cut -d: -f1)
  cp "/usr/share/doc/$package/copyright" "$STAGE/licenses/$package.txt"
}

# Unpacks the archive in a new folder, whose programs must find every library there.
try_archive() {
  local folder
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' RETURN
  tar -xzf "$ARCHIVE" -C "$folder"
  local binary=$folder/$NAME/treeline
  local stray
  stray=$(bundled_libraries "$binary" | grep -v "^$folder/" || true)
  if [[ -n $stray ]]; then
    echo "dist: libraries that do not come from the archive: $stray" >&2
    return 1
  fi
  env -i "$binary" --help >/dev/null
}

# Prints the newest version of these symbols that the archive's programs ask for.
newest_version() {
  objdump -T "$STAGE/treeline" "$STAGE"/lib/* | grep -o "$1_[0-9.]*" | sort -Vu | tail -n 1
}

rm -rf "$STAGE"
mkdir -p "$STAGE/lib" "$STAGE/licenses" dist
install -m 755 "$SERVER" "$STAGE/treeline"
strip "$STAGE/treeline"
while read -r library; do copy_library "$library"; done < <(bundled_libraries "$SERVER")
# DT_RPATH, unlike DT_RUNPATH, also serves the libraries' own libraries.
patchelf --force-rpath --set-rpath '$ORIGIN/lib' "$STAGE/treeline"
cp LICENSE "$STAGE/"
mkdir "$STAGE/configs"
cp configs/*.textproto "$STAGE/configs/"
mtime=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$mtime" \
  -C "$(dirname "$STAGE")" -c "$NAME" | gzip -n >"$ARCHIVE"
try_archive
echo "$ARCHIVE ($(du -h "$ARCHIVE" | cut -f1)); needs $(newest_version GLIBC)," \
  "$(newest_version GLIBCXX)"
