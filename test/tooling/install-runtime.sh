#!/usr/bin/env bash
# Installs the runtime of the single file for a processor (x64 or arm64; default: this one), and prints its program.
# It is pinned by a lock file of its own and kept below node_modules/, so that `npm ci` brings nothing of it. With
# everything there it costs a few milliseconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=${1:-$(uname -m)}
case $target in
  x64 | x86_64) target=x64 package=@oven/bun-linux-x64 ;;
  arm64 | aarch64) target=arm64 package=@oven/bun-linux-aarch64 ;;
  *)
    echo "install-runtime: there is none for '$target': x64 or arm64" >&2
    exit 1
    ;;
esac
pinned=$PWD/test/tooling/runtime
folder=$PWD/node_modules/.runtime/$target
program=$folder/node_modules/$package/bin/bun
if [ ! -x "$program" ] || ! cmp -s "$pinned/package-lock.json" "$folder/package-lock.json"; then
  mkdir -p "$folder"
  cp "$pinned/package.json" "$pinned/package-lock.json" "$folder"
  (cd "$folder" && npm ci --ignore-scripts --prefer-offline --os=linux --libc=glibc --cpu="$target") >&2
fi
[ -x "$program" ] || { echo "install-runtime: npm did not bring $package" >&2; exit 1; }
printf '%s\n' "$program"
