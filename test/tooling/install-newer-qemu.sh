#!/usr/bin/env bash
# Unpacks newer versions of qemu-img beside the system's, for the tests that compare imgtx with each: on Debian,
# from the package lists of a newer release, checked by apt as always, into the user's cache. Nothing is installed,
# and no right is needed. Where that can't be done it is said, and the tests are listed as skipped, also in CI: a
# machine without a network must not fail for it. With everything there it costs a few milliseconds, else some 5 s
# once; what failed is not tried again for a day.
set -uo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/imgtx-oracles"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'install-newer-qemu: %s\n' "$1" >&2; }

# unpack MAJOR SUITE FOLDER: a program $cache/qemu-img-MAJOR, whose files are in $cache/MAJOR.
unpack() {
  local major=$1 suite=$2 folder=$3 linker package
  mkdir -p "$folder"/{lists,archives}/partial "$folder/parts" "$folder/unpacked"
  : >"$folder/status"
  printf 'deb %s %s %s main\n' "$options" "$archive" "$suite" >"$folder/sources.list"
  cat >"$folder/apt.conf" <<CONF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State::lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::Cache "$folder";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "$folder/parts";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
APT::Sandbox::User "";
CONF
  export APT_CONFIG="$folder/apt.conf"
  apt-get -q update && apt-get -q -y --no-install-recommends -d install qemu-utils || return
  for package in "$folder"/archives/*.deb; do dpkg -x "$package" "$folder/unpacked" || return; done
  linker=$(find "$folder/unpacked" -name 'ld-linux*.so.*' -type f -printf '%P\n' -quit)
  [ -n "$linker" ] || return
  rm -rf "$folder/unpacked/usr/share" "${cache:?}/$major"
  mv "$folder/unpacked" "$cache/$major" || return
  cat >"$folder/program" <<PROGRAM
#!/bin/sh
exec '$cache/$major/$linker' --argv0 qemu-img --library-path '$cache/$major/${linker%/*}' '$cache/$major/usr/bin/qemu-img' "\$@"
PROGRAM
  chmod +x "$folder/program"
  "$folder/program" --version | grep "^qemu-img version $major\." || return
  mv "$folder/program" "$cache/qemu-img-$major"
}

get() {
  local folder
  [ -x "$cache/qemu-img-$1" ] && return
  if [ -n "$(find "$cache/no-$1" -mtime -1 2>/dev/null)" ]; then
    say "qemu-img $1 could not be had, as $cache/no-$1 tells; the tests that need it are skipped, by name"
    return
  fi
  folder=$(mktemp -d)
  say "unpacking qemu-img $1 into $cache"
  if ! unpack "$1" "$2" "$folder" >"$folder/output" 2>&1 </dev/null; then
    cp "$folder/output" "$cache/no-$1"
    say "qemu-img $1 can't be had: $(tail -n 1 "$cache/no-$1"); the tests that need it are skipped, by name"
  fi
  rm -rf "$folder"
}

[ -x "$cache/qemu-img-10" ] && [ -x "$cache/qemu-img-11" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  say "no apt-get here, so newer versions of qemu-img can't be had"
  exit 0
fi
# The archive that this system's own packages are from; other releases are beside its own.
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null)
# shellcheck disable=SC2016 # apt puts these in
archive=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  sed -n "s/^$release //p" | head -n 1)
if [ -z "$archive" ]; then
  say "no package source of this system's release, so newer versions of qemu-img can't be had"
  exit 0
fi
options=
[ ! -f $keyring ] || options="[signed-by=$keyring]"
mkdir -p "$cache"
get 10 trixie &
get 11 sid &
wait
exit 0
