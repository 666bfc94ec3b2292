# shellcheck shell=bash
# Backing chains. The backing images lie beside their overlays.

fixture base.raw 'Base of chains: raw, data at 0-64k and 512-576k.' format raw <<'RUN'
qemu-img create -q -f raw base.raw 1M
qemu-io -f raw -c 'write -q -P 0x91 0 64k' -c 'write -q -P 0x92 512k 64k' base.raw
RUN

fixture base.qcow2 'Base of chains: qcow2, data at 0-64k, 256-320k and 960k-1M.' <<'RUN'
new base.qcow2 1M
io base.qcow2 'write -P 0x93 0 64k' 'write -P 0x94 256k 64k' 'write -P 0x95 960k 64k'
RUN

fixture over-raw.qcow2 'An overlay over a raw base, named relative to its folder.' needs base.raw <<'RUN'
new over-raw.qcow2 1M -b base.raw -F raw
io over-raw.qcow2 'write -P 0x96 32k 4k'
RUN

fixture over-qcow2.qcow2 'An overlay over a qcow2 base, named relative to its folder.' needs base.qcow2 <<'RUN'
new over-qcow2.qcow2 1M -b base.qcow2 -F qcow2
io over-qcow2.qcow2 'write -P 0x97 256k 4k'
RUN

fixture over-over.qcow2 'A chain of three, each layer with other cluster sizes and versions.' needs over-mixed.qcow2 <<'RUN'
new over-mixed.qcow2 1M -b base.qcow2 -F qcow2 -o cluster_size=4k,compat=0.10
io over-mixed.qcow2 'write -P 0x98 258k 8k'
new over-over.qcow2 1M -b over-mixed.qcow2 -F qcow2 -o cluster_size=512,refcount_bits=8
io over-over.qcow2 'write -P 0x99 259k 512'
RUN

fixture over-mixed.qcow2 'The middle of the chain of over-over.qcow2: version 2, clusters of 4 KiB.' needs base.qcow2 <<'RUN'
# made by the recipe of over-over.qcow2
RUN

fixture over-zeros.qcow2 'An overlay whose zero clusters hide the data below: plain, and with space kept.' needs base.qcow2 <<'RUN'
new over-zeros.qcow2 1M -b base.qcow2 -F qcow2
io over-zeros.qcow2 'write -z -u 0 64k' 'write -P 0x9a 256k 64k' 'write -z 256k 64k'
RUN

fixture over-extended-l2.qcow2 'Subclusters over a base: some from here, some zero, some from below, in one cluster.' needs base.qcow2 <<'RUN'
new over-extended-l2.qcow2 1M -b base.qcow2 -F qcow2 -o extended_l2=on,cluster_size=64k
io over-extended-l2.qcow2 'write -P 0x9b 258k 2k' 'write -z 270k 4k'
RUN

fixture over-shorter.qcow2 'The base is shorter than the overlay: behind its end are zeros.' needs shorter.raw <<'RUN'
qemu-img create -q -f raw shorter.raw 100k
qemu-io -f raw -c 'write -q -P 0x9c 0 100k' shorter.raw
new over-shorter.qcow2 1M -b shorter.raw -F raw
io over-shorter.qcow2 'write -P 0x9d 512k 4k'
RUN

fixture shorter.raw 'The base of over-shorter.qcow2, 100 KiB, no multiple of the cluster size.' format raw <<'RUN'
# made by the recipe of over-shorter.qcow2
RUN

fixture over-longer.qcow2 'The base is longer than the overlay: what is behind the end of the overlay is not seen.' needs base.qcow2 <<'RUN'
new over-longer.qcow2 300k -b base.qcow2 -F qcow2
io over-longer.qcow2 'write -P 0x9e 0 4k'
RUN

fixture over-absolute.qcow2 'An absolute backing name that no machine has. A test that needs one that is there has it rewritten (setBackingName of test/helpers/fixtures.ts).' \
  error E_NOT_FOUND guest no <<'RUN'
new over-absolute.qcow2 1M -u -b /nonexistent/imgtx/base.qcow2 -F qcow2
RUN

fixture over-missing.qcow2 'A relative backing name with nothing there (accepted by rebase -u).' error E_NOT_FOUND guest no <<'RUN'
new over-missing.qcow2 1M
qemu-img rebase -q -u -b not-there.qcow2 -F qcow2 over-missing.qcow2
RUN

fixture over-no-format.qcow2 'A backing name without a backing format, as old tools wrote it; the base is qcow2.' \
  needs base.qcow2 <<'RUN'
new over-no-format.qcow2 1M -b base.qcow2 -F qcow2
be32 over-no-format.qcow2 112 0x494d4758
RUN

fixture over-no-format-raw.qcow2 'A backing name without a backing format; the base would have to be guessed as raw.' \
  needs base.raw error E_FORMAT_UNKNOWN note 'raw is never guessed' <<'RUN'
new over-no-format-raw.qcow2 1M -b base.raw -F raw
be32 over-no-format-raw.qcow2 112 0x494d4758
RUN

fixture over-colon.qcow2 'A base with a colon in its name: behind the first slash it is a path and no protocol.' needs colon:base.raw <<'RUN'
qemu-img create -q -f raw ./colon:base.raw 64k
qemu-io -f raw -c 'write -q -P 0x9f 0 64k' ./colon:base.raw
new over-colon.qcow2 64k -b ./colon:base.raw -F raw
RUN

fixture colon:base.raw 'The base of over-colon.qcow2.' format raw <<'RUN'
# made by the recipe of over-colon.qcow2
RUN

fixture nested/up.qcow2 'A raw base one folder up: inside the workspace it is trusted, by the image alone it is not.' needs base.raw <<'RUN'
new up.qcow2 1M -b ../base.raw -F raw
io up.qcow2 'write -P 0xa0 0 4k'
RUN

fixture over-qcow2-inside.qcow2 'Backing format raw over a disk with a qcow2 header in it: it stays raw.' needs qcow2-inside.raw <<'RUN'
new over-qcow2-inside.qcow2 1M -b qcow2-inside.raw -F raw
RUN

fixture over-data-file.qcow2 'An overlay over an image with an external data file.' needs data-file.qcow2 <<'RUN'
new over-data-file.qcow2 512k -b data-file.qcow2 -F qcow2
io over-data-file.qcow2 'write -P 0xa1 4k 4k'
RUN

fixture over-snapshots.qcow2 'An overlay over an image with internal snapshots; it does not have them.' needs snapshots.qcow2 <<'RUN'
new over-snapshots.qcow2 512k -b snapshots.qcow2 -F qcow2
RUN
