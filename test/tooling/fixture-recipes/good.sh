# shellcheck shell=bash
# Images that stand alone and are sound, apart from the marks that a kill leaves.

# --- versions ---------------------------------------------------------------------------------------

fixture v2.qcow2 'Version 2: no feature bits, refcounts of 16 bits, a header of 72 bytes.' <<'RUN'
new v2.qcow2 1M -o compat=0.10
io v2.qcow2 'write -P 0x11 0 64k' 'write -P 0x12 500k 24k' 'write -P 0x13 1023k 1k'
RUN

fixture v3.qcow2 'Version 3 with the defaults: 64 KiB clusters, refcounts of 16 bits, a feature name table.' <<'RUN'
new v3.qcow2 1M
io v3.qcow2 'write -P 0x11 0 64k' 'write -P 0x12 500k 24k' 'write -P 0x13 1023k 1k'
RUN

fixture empty-guest.qcow2 'A virtual disk of no bytes: no L1 table.' <<'RUN'
new empty-guest.qcow2 0
RUN

fixture unwritten.qcow2 'Nothing was ever written: an L1 table without L2 tables.' <<'RUN'
new unwritten.qcow2 1M
RUN

fixture odd-size.qcow2 'The virtual size is no multiple of the cluster size.' <<'RUN'
new odd-size.qcow2 1049088
io odd-size.qcow2 'write -P 0x14 1048576 512' 'write -P 0x15 0 1k'
RUN

# --- cluster sizes ----------------------------------------------------------------------------------

fixture cluster-512.qcow2 'Smallest clusters, 512 B: several L2 tables and refcount blocks.' <<'RUN'
new cluster-512.qcow2 256k -o cluster_size=512
io cluster-512.qcow2 'write -P 0x21 0 40k' 'write -P 0x22 131k 512' 'write -P 0x23 255k 1k'
RUN

fixture cluster-4k.qcow2 'Clusters of 4 KiB: two L2 tables.' <<'RUN'
new cluster-4k.qcow2 4M -o cluster_size=4k
io cluster-4k.qcow2 'write -P 0x24 0 10k' 'write -P 0x25 2M 4k' 'write -P 0x26 4095k 1k'
RUN

fixture cluster-2m.qcow2 'Largest clusters, 2 MiB.' <<'RUN'
new cluster-2m.qcow2 5M -o cluster_size=2M
io cluster-2m.qcow2 'write -P 0x27 1M 64k' 'write -P 0x28 4608k 512k'
RUN

# --- refcount widths --------------------------------------------------------------------------------

for bits in 1 2 4 8 32 64; do
  fixture "refcount-$bits.qcow2" "Refcounts of $bits bits." <<RUN
new refcount-$bits.qcow2 256k -o cluster_size=4k,refcount_bits=$bits
io refcount-$bits.qcow2 'write -P 0x31 0 12k' 'write -P 0x32 200k 8k'
RUN
done

# --- L2 entries -------------------------------------------------------------------------------------

fixture extended-l2.qcow2 'Extended L2 entries: subclusters of 2 KiB allocated, zero and unallocated in one cluster.' <<'RUN'
new extended-l2.qcow2 1M -o extended_l2=on,cluster_size=64k
io extended-l2.qcow2 'write -P 0x41 4k 2k' 'write -P 0x42 20k 6k' 'write -z 22k 2k' 'write -P 0x43 640k 64k'
RUN

fixture extended-l2-16k.qcow2 'Extended L2 entries with the smallest clusters that they allow: subclusters of 512 B.' <<'RUN'
new extended-l2-16k.qcow2 256k -o extended_l2=on,cluster_size=16k
io extended-l2-16k.qcow2 'write -P 0x44 512 512' 'write -P 0x45 100k 3k'
RUN

fixture zero-clusters.qcow2 'Zero clusters: plain (0-64k), with space kept (64-128k); data at 128-192k.' <<'RUN'
new zero-clusters.qcow2 512k
io zero-clusters.qcow2 'write -z -u 0 64k' 'write -P 0x46 64k 128k' 'write -z 64k 64k'
RUN

# --- compression ------------------------------------------------------------------------------------

fixture compressed-zlib.qcow2 'Deflated clusters, several to a host cluster; the file ends inside a cluster.' <<'RUN'
new compressed-zlib.qcow2 1M
io compressed-zlib.qcow2 'write -c -P 0x51 0 64k' 'write -c -P 0x52 64k 64k' 'write -P 0x53 128k 64k' 'write -c -P 0x54 960k 64k'
RUN

fixture compressed-zlib-v2.qcow2 'Deflated clusters in version 2.' <<'RUN'
new compressed-zlib-v2.qcow2 1M -o compat=0.10
io compressed-zlib-v2.qcow2 'write -c -P 0x55 0 64k' 'write -c -P 0x56 320k 64k'
RUN

fixture compressed-zlib-512.qcow2 'Deflated clusters of 512 B: the narrowest field for their length.' <<'RUN'
new compressed-zlib-512.qcow2 64k -o cluster_size=512
io compressed-zlib-512.qcow2 'write -c -P 0x57 0 512' 'write -c -P 0x58 512 512' 'write -c -P 0x59 32k 512'
RUN

fixture compressed-zlib-2m.qcow2 'Deflated clusters of 2 MiB: the widest field for their length.' <<'RUN'
new compressed-zlib-2m.qcow2 4M -o cluster_size=2M
io compressed-zlib-2m.qcow2 'write -c -P 0x5a 2M 2M'
RUN

fixture compressed-zstd.qcow2 'Zstandard clusters: the compression-type bit and byte.' <<'RUN'
new compressed-zstd.qcow2 1M -o compression_type=zstd
io compressed-zstd.qcow2 'write -c -P 0x5b 0 64k' 'write -c -P 0x5c 64k 64k' 'write -P 0x5d 512k 64k'
RUN

# --- internal snapshots -----------------------------------------------------------------------------

fixture snapshots.qcow2 'Two internal snapshots that share clusters with the active layer; the second has a name beyond ASCII.' <<'RUN'
new snapshots.qcow2 512k -o cluster_size=4k
io snapshots.qcow2 'write -P 0x61 0 16k'
qemu-img snapshot -c first snapshots.qcow2
io snapshots.qcow2 'write -P 0x62 4k 4k' 'write -P 0x63 256k 8k'
qemu-img snapshot -c 'zweiter Stand ä' snapshots.qcow2
io snapshots.qcow2 'write -P 0x64 8k 4k'
fix_snapshot_times snapshots.qcow2
RUN

fixture snapshots-v2.qcow2 'An internal snapshot in version 2.' <<'RUN'
new snapshots-v2.qcow2 512k -o compat=0.10
io snapshots-v2.qcow2 'write -P 0x65 0 64k'
qemu-img snapshot -c first snapshots-v2.qcow2
io snapshots-v2.qcow2 'write -P 0x66 0 64k'
fix_snapshot_times snapshots-v2.qcow2
RUN

fixture snapshots-resized.qcow2 'The disk grew after its internal snapshot: the snapshot has a smaller L1 table and size of its own.' <<'RUN'
new snapshots-resized.qcow2 32k -o cluster_size=512
io snapshots-resized.qcow2 'write -P 0x67 0 1k'
qemu-img snapshot -c small snapshots-resized.qcow2
qemu-img resize -q snapshots-resized.qcow2 128k
io snapshots-resized.qcow2 'write -P 0x68 100k 1k'
fix_snapshot_times snapshots-resized.qcow2
RUN

# --- bitmaps ----------------------------------------------------------------------------------------

fixture bitmaps.qcow2 'Two bitmaps, written to: "nightly" enabled, "weekly" disabled with a granularity of 32 KiB.' <<'RUN'
new bitmaps.qcow2 1M
qemu-img bitmap --add bitmaps.qcow2 nightly
qemu-img bitmap --add --disable -g 32k bitmaps.qcow2 weekly
io bitmaps.qcow2 'write -P 0x71 128k 64k'
RUN

fixture bitmap-in-use.qcow2 'A bitmap whose writer was killed: the in-use flag is set, and what it marks is stale.' <<'RUN'
new bitmap-in-use.qcow2 1M
qemu-img bitmap --add bitmap-in-use.qcow2 nightly
killed bitmap-in-use.qcow2 'write -P 0x72 0 64k'
RUN

# --- lazy refcounts and the dirty bit ---------------------------------------------------------------

fixture lazy-refcounts.qcow2 'Lazy refcounts allowed (a compatible bit), closed cleanly.' <<'RUN'
new lazy-refcounts.qcow2 1M -o lazy_refcounts=on
io lazy-refcounts.qcow2 'write -P 0x73 0 64k'
RUN

fixture dirty.qcow2 'Lazy refcounts and a killed writer: the dirty bit is set, refcounts lag behind.' \
  write E_REFUSED note 'the refcounts have to be rebuilt before anybody writes' <<'RUN'
new dirty.qcow2 1M -o lazy_refcounts=on
killed dirty.qcow2 'write -P 0x74 0 64k'
RUN

# --- external data files ----------------------------------------------------------------------------

fixture data-file.qcow2 'An external data file, stored by name; the clusters in it lie in the order of their writing.' \
  needs data-file.bin <<'RUN'
new data-file.qcow2 512k -o data_file=data-file.bin
io data-file.qcow2 'write -P 0x75 256k 64k' 'write -P 0x76 0 64k'
RUN

fixture data-file.bin 'The data file of data-file.qcow2.' format raw <<'RUN'
# made by the recipe of data-file.qcow2
RUN

fixture data-file-raw.qcow2 'A raw external data file: it can be read as an image of its own.' \
  needs data-file-raw.raw <<'RUN'
new data-file-raw.qcow2 512k -o data_file=data-file-raw.raw,data_file_raw=on
io data-file-raw.qcow2 'write -P 0x77 256k 64k' 'write -P 0x78 0 64k'
RUN

fixture data-file-raw.raw 'The data file of data-file-raw.qcow2: the guest content as it is.' format raw <<'RUN'
# made by the recipe of data-file-raw.qcow2
RUN

# --- layouts that QEMU writes less often ------------------------------------------------------------

fixture preallocated.qcow2 'Metadata preallocated: every cluster has its place, few have data.' <<'RUN'
new preallocated.qcow2 1M -o preallocation=metadata
io preallocated.qcow2 'write -P 0x79 320k 64k'
RUN

fixture unaligned-end.qcow2 'The file ends inside its last data cluster; what is missing reads as zeros.' <<'RUN'
new unaligned-end.qcow2 1M
io unaligned-end.qcow2 'write -P 0x7a 0 5k'
truncate -s 332800 unaligned-end.qcow2
RUN

fixture header-104.qcow2 'The shortest header of version 3: no compression type, the extensions start at 104.' <<'RUN'
new header-104.qcow2 1M
io header-104.qcow2 'write -P 0x7b 0 64k'
dd if=header-104.qcow2 of=tail bs=1 skip=112 count=408 status=none
be32 header-104.qcow2 100 104
dd if=tail of=header-104.qcow2 bs=1 seek=104 conv=notrunc status=none
rm tail
RUN

fixture header-120.qcow2 'A header longer than the known fields: the bytes beyond are unknown and kept.' <<'RUN'
new header-120.qcow2 1M
io header-120.qcow2 'write -P 0x7c 0 64k'
dd if=header-120.qcow2 of=tail bs=1 skip=112 count=408 status=none
be32 header-120.qcow2 100 120
bytes header-120.qcow2 112 0000000000000000
dd if=tail of=header-120.qcow2 bs=1 seek=120 conv=notrunc status=none
rm tail
RUN

fixture unknown-extension.qcow2 'A header extension that nobody knows, of odd length, behind the feature name table: to be kept.' <<'RUN'
new unknown-extension.qcow2 1M
io unknown-extension.qcow2 'write -P 0x7d 0 64k'
be32 unknown-extension.qcow2 504 0x494d4758
be32 unknown-extension.qcow2 508 13
text unknown-extension.qcow2 512 'keep me as is'
RUN

fixture unknown-compatible-bit.qcow2 'A compatible and an autoclear feature bit that nobody knows: no reason to refuse; a writer clears the second.' <<'RUN'
new unknown-compatible-bit.qcow2 1M
io unknown-compatible-bit.qcow2 'write -P 0x7e 0 64k'
be64 unknown-compatible-bit.qcow2 80 0x20
be64 unknown-compatible-bit.qcow2 88 0x40
RUN

fixture large-guest.qcow2 'A virtual size of 64 TiB in a small file: nothing may be sized by what the guest sees.' guest no <<'RUN'
new large-guest.qcow2 64T -o cluster_size=2M
RUN

# --- raw --------------------------------------------------------------------------------------------

fixture plain.raw 'Raw, every byte written.' format raw <<'RUN'
qemu-img create -q -f raw plain.raw 128k
qemu-io -f raw -c 'write -q -P 0x81 0 128k' plain.raw
RUN

fixture holes.raw 'Raw, data at 64-68k and 512-576k, holes elsewhere, one at the end.' format raw <<'RUN'
qemu-img create -q -f raw holes.raw 1M
qemu-io -f raw -c 'write -q -P 0x82 64k 4k' -c 'write -q -P 0x83 512k 64k' holes.raw
RUN

fixture odd-size.raw 'Raw, a size that is no multiple of 512; QEMU rounds it up to 100352 bytes.' format raw <<'RUN'
repeat 100001 r >odd-size.raw
RUN

fixture qcow2-inside.raw 'A raw disk whose guest wrote a qcow2 header that names a host file: as raw it is only data (CVE-2008-2004, CVE-2024-40767).' \
  format raw <<'RUN'
qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw qcow2-inside.raw 1M
truncate -s 1M qcow2-inside.raw
RUN
