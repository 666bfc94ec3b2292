#!/usr/bin/env bash
# Installs the tools that the oracle tests judge by, where that can be done: on Debian, as root. Elsewhere it
# says what is missing, and the tests that need it are listed as skipped. It never fails the run itself: that a
# skip is a failure in CI is for the tests to say. With everything there it costs a few milliseconds.
set -uo pipefail

# Each tool, or library, with its Debian package; more of them may be given as words.
tools=(
  qemu-img:qemu-utils
  qemu-io:qemu-utils
  qemu-nbd:qemu-utils
  qemu-storage-daemon:qemu-system-common
  strace:strace
  mandoc:mandoc
  shellcheck:shellcheck
  ansible-playbook:ansible-core
  setfacl:acl
  mkfs.ext4:e2fsprogs
  lsattr:e2fsprogs
  mkfs.xfs:xfsprogs
  xfs_io:xfsprogs
  mkfs.btrfs:btrfs-progs
  mount:mount
  losetup:mount
  libzstd.so.1:libzstd1
  libdeflate.so.0:libdeflate0
  "$@"
)

is_there() {
  case $1 in
    *.so.*) [[ "$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null)" == *"$1 "* ]] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=()
packages=()
find_missing() {
  local entry
  missing=()
  packages=()
  for entry in "${tools[@]}"; do
    is_there "${entry%%:*}" && continue
    missing+=("${entry%%:*}")
    packages+=("${entry#*:}")
  done
}

say() { printf 'install-oracles: %s\n' "$1" >&2; }

# Quiet, and with all of apt's words when it fails.
quietly() {
  local output
  output=$("$@" 2>&1 </dev/null) && return
  printf '%s\n' "$output" >&2
  return 1
}

bash "$(dirname "${BASH_SOURCE[0]}")/install-newer-qemu.sh"

find_missing
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  say "no apt-get here, so nothing is installed"
elif [ "$(id -u)" != 0 ]; then
  say "only root can install; as root: apt-get install --no-install-recommends ${packages[*]}"
else
  export DEBIAN_FRONTEND=noninteractive
  say "installing ${packages[*]}"
  quietly apt-get -q update || say "apt-get update failed; trying with the package lists that are there"
  # One by one where they don't go together: a package that this release lacks must not hold up the others.
  if ! quietly apt-get -q -y install --no-install-recommends "${packages[@]}"; then
    for package in "${packages[@]}"; do
      quietly apt-get -q -y install --no-install-recommends "$package" || say "$package can't be installed"
    done
  fi
  hash -r
  find_missing
fi

[ ${#missing[@]} -eq 0 ] || say "missing: ${missing[*]}; the tests that need them are skipped, by name"
exit 0
