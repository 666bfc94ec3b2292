#!/usr/bin/env bash
# The main job, start to end, in a temporary folder: a workspace of sample disks, a group snapshot, a
# transaction over several commands, one that is killed half way with its recovery, and the chains at the end.
# Needs no qemu: the sample disks are the fixtures of the tests, and an empty raw one.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
demo=$(mktemp -d "${TMPDIR:-/tmp}/imgtx-demo.XXXXXX")
trap 'rm -rf "$demo"' EXIT
mkdir "$demo/bin" "$demo/disks"
ln -s "$root/bin/imgtx.js" "$demo/bin/imgtx"
PATH="$demo/bin:$PATH"
cd "$demo/disks"

say() { printf '\n\033[1m# %s\033[0m\n' "$1"; }
run() {
  printf '$ %s\n' "$*"
  "$@"
}
[ -t 1 ] || say() { printf '\n# %s\n' "$1"; }

say "Three disks: two qcow2 images and a raw one."
gunzip -c "$root/fixtures/compressed-zlib.qcow2.gz" >system.qcow2
gunzip -c "$root/fixtures/snapshots-v2.qcow2.gz" >data.qcow2
truncate -s 8M logs.raw
run imgtx device add vda system.qcow2 --quiet
run imgtx device add vdb data.qcow2 --quiet
run imgtx device add vdc logs.raw --format raw --quiet
run imgtx device list

say "A snapshot of all three at one instant: all of them, or none."
run imgtx snapshot-group vda=system-1.qcow2 vdb=data-1.qcow2 vdc=logs-1.qcow2

say "A transaction over several commands. Nothing counts before the commit."
run imgtx txn begin --name upgrade
run imgtx snapshot vda system-2.qcow2 --quiet
run imgtx txn savepoint half --quiet
run imgtx snapshot vdb data-2.qcow2 --quiet
run imgtx txn rollback-to half --quiet
run imgtx txn status
run imgtx txn commit --quiet

say "A script in a transaction, killed with -9 in the middle. It leaves a new image behind ..."
# The script kills its parent: imgtx, which waits for it, to commit or to abort.
cat >../nightly.sh <<'SCRIPT'
imgtx snapshot vdc logs-2.qcow2 --quiet
kill -9 $PPID
SCRIPT
run cat ../nightly.sh
run imgtx txn exec -- sh ../nightly.sh || printf '(exit status %s)\n' $?
run ls .imgtx/journal logs-2.qcow2

say "... and the next command, whatever it is, undoes that first."
run imgtx device show vdc
run ls

say "A second recovery finds nothing to do."
run imgtx recover

say "What happened, and where the disks are now."
run imgtx history
run imgtx tree
