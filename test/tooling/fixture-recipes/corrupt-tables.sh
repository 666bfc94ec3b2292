# shellcheck shell=bash
# Tables behind the header: snapshots, bitmaps, L1, L2, refcounts, compressed clusters.
#
# "later": opening a chain reads headers, not tables; who reads the guest's data or changes the image meets it.

# --- internal snapshots -----------------------------------------------------------------------------

fixture corrupt/snapshots-too-many.qcow2 'nb_snapshots is 65,537; 65,536 are allowed.' error E_CORRUPT guest no <<'RUN'
cp ../snapshots.qcow2 snapshots-too-many.qcow2
be32 snapshots-too-many.qcow2 60 65537
RUN

fixture corrupt/snapshots-past-end.qcow2 'The snapshot table is behind the end of the file.' error E_CORRUPT guest no <<'RUN'
cp ../snapshots.qcow2 snapshots-past-end.qcow2
be64 snapshots-past-end.qcow2 64 0x40000000
RUN

fixture corrupt/snapshots-unaligned.qcow2 'The snapshot table is not on a cluster boundary.' error E_CORRUPT guest no <<'RUN'
cp ../snapshots.qcow2 snapshots-unaligned.qcow2
be64 snapshots-unaligned.qcow2 64 "$(($(number snapshots-unaligned.qcow2 64 8) + 8))"
RUN

fixture corrupt/snapshots-truncated.qcow2 '60,000 snapshots are said to be in a table that the file has no room for.' error E_CORRUPT guest no <<'RUN'
cp ../snapshots.qcow2 snapshots-truncated.qcow2
be32 snapshots-truncated.qcow2 60 60000
RUN

fixture corrupt/snapshot-extra-huge.qcow2 'Extra data of 2 GiB in a snapshot; 1,024 bytes are allowed.' \
  later E_CORRUPT note 'the snapshot table is read by who lists or changes snapshots' guest no <<'RUN'
cp ../snapshots.qcow2 snapshot-extra-huge.qcow2
be32 snapshot-extra-huge.qcow2 "$(($(number snapshot-extra-huge.qcow2 64 8) + 36))" 0x7fffffff
RUN

fixture corrupt/snapshot-l1-huge.qcow2 'The L1 table of a snapshot has 2^32-1 entries.' \
  later E_CORRUPT note 'the snapshot table is read by who lists or changes snapshots' guest no <<'RUN'
cp ../snapshots.qcow2 snapshot-l1-huge.qcow2
be32 snapshot-l1-huge.qcow2 "$(($(number snapshot-l1-huge.qcow2 64 8) + 8))" 0xffffffff
RUN

fixture corrupt/snapshot-l1-at-header.qcow2 'The L1 table of a snapshot lies on the header.' \
  later E_CORRUPT note 'the snapshot table is read by who lists or changes snapshots' guest no <<'RUN'
cp ../snapshots.qcow2 snapshot-l1-at-header.qcow2
be64 snapshot-l1-at-header.qcow2 "$(number snapshot-l1-at-header.qcow2 64 8)" 0
RUN

# --- bitmaps ----------------------------------------------------------------------------------------
# In bitmaps.qcow2 the bitmaps extension is behind the feature name table, at 504: nb_bitmaps at 512,
# bitmap_directory_size at 520, bitmap_directory_offset at 528.

fixture corrupt/bitmaps-too-many.qcow2 'nb_bitmaps is 65,536; 65,535 are allowed.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-too-many.qcow2
be32 bitmaps-too-many.qcow2 512 65536
RUN

fixture corrupt/bitmaps-none.qcow2 'A bitmaps extension with nb_bitmaps 0.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-none.qcow2
be32 bitmaps-none.qcow2 512 0
RUN

fixture corrupt/bitmaps-directory-huge.qcow2 'A bitmap directory of 1 TiB.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-directory-huge.qcow2
be64 bitmaps-directory-huge.qcow2 520 $((1 << 40))
RUN

fixture corrupt/bitmaps-directory-past-end.qcow2 'A bitmap directory behind the end of the file.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-directory-past-end.qcow2
be64 bitmaps-directory-past-end.qcow2 528 0x40000000
RUN

fixture corrupt/bitmaps-directory-unaligned.qcow2 'A bitmap directory that is not on a cluster boundary.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-directory-unaligned.qcow2
be64 bitmaps-directory-unaligned.qcow2 528 "$(($(number bitmaps-directory-unaligned.qcow2 528 8) + 8))"
RUN

fixture corrupt/bitmaps-extension-short.qcow2 'A bitmaps extension of 16 bytes; it has 24.' error E_CORRUPT guest no <<'RUN'
cp ../bitmaps.qcow2 bitmaps-extension-short.qcow2
be32 bitmaps-extension-short.qcow2 508 16
RUN

fixture corrupt/bitmaps-stale.qcow2 'A writer that knows no bitmaps has cleared the autoclear bit: the bitmaps are stale, the image is sound.' <<'RUN'
cp ../bitmaps.qcow2 bitmaps-stale.qcow2
be64 bitmaps-stale.qcow2 88 0
RUN

# A directory entry: bitmap_table_offset at 0, bitmap_table_size at 8, flags at 12, type at 16, granularity_bits
# at 17, name_size at 18, extra_data_size at 20.
for row in '17:8:01:granularity-small:granularity_bits is 8; 9 is the least' \
  '17:32:01:granularity-large:granularity_bits is 32; 31 is the most' \
  '16:7:01:type:A bitmap of type 7; there is type 1 only'; do
  IFS=: read -r at value _ short shows <<<"$row"
  fixture "corrupt/bitmap-$short.qcow2" "$shows." \
    later E_CORRUPT note 'the bitmap directory is read by who lists or changes bitmaps' guest no <<RUN
cp ../bitmaps.qcow2 bitmap-$short.qcow2
bytes bitmap-$short.qcow2 \$((\$(number bitmap-$short.qcow2 528 8) + $at)) $(printf '%02x' "$value")
RUN
done

fixture corrupt/bitmap-name-long.qcow2 'A bitmap name of 1,024 bytes; 1,023 are allowed.' \
  later E_CORRUPT note 'the bitmap directory is read by who lists or changes bitmaps' guest no <<'RUN'
cp ../bitmaps.qcow2 bitmap-name-long.qcow2
be16 bitmap-name-long.qcow2 "$(($(number bitmap-name-long.qcow2 528 8) + 18))" 1024
RUN

fixture corrupt/bitmap-table-huge.qcow2 'A bitmap table of 2^32-1 entries.' \
  later E_CORRUPT note 'the bitmap directory is read by who lists or changes bitmaps' guest no <<'RUN'
cp ../bitmaps.qcow2 bitmap-table-huge.qcow2
be32 bitmap-table-huge.qcow2 "$(($(number bitmap-table-huge.qcow2 528 8) + 8))" 0xffffffff
RUN

# --- L1, L2 and refcounts ---------------------------------------------------------------------------
# In v3.qcow2: refcount table at 0x10000, refcount block 0x20000, L1 table 0x30000, L2 table 0x40000.

l2_note='L1 and L2 entries are read by who reads the guest content or maps ownership before a write'
refcount_note='refcount blocks are read by who maps ownership before a write'

fixture corrupt/l1-entry-at-header.qcow2 'An L1 entry points at the header: a guest write would go into it.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l1-entry-at-header.qcow2
bytes l1-entry-at-header.qcow2 0x30000 8000000000000200
RUN

fixture corrupt/l1-entry-at-refcount-table.qcow2 'An L1 entry points at the refcount table.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l1-entry-at-refcount-table.qcow2
bytes l1-entry-at-refcount-table.qcow2 0x30000 8000000000010000
RUN

fixture corrupt/l1-entry-past-end.qcow2 'An L1 entry points behind the end of the file.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l1-entry-past-end.qcow2
bytes l1-entry-past-end.qcow2 0x30000 8000000040000000
RUN

fixture corrupt/l1-entry-reserved.qcow2 'Reserved bits are set in an L1 entry.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l1-entry-reserved.qcow2
bytes l1-entry-reserved.qcow2 0x30000 ff00000000040000
RUN

fixture corrupt/l2-entry-at-header.qcow2 'An L2 entry points at the header.' later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-at-header.qcow2
bytes l2-entry-at-header.qcow2 0x40000 8000000000000000
RUN

fixture corrupt/l2-entry-at-l1.qcow2 'An L2 entry points at the L1 table: a guest write would be a table.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-at-l1.qcow2
bytes l2-entry-at-l1.qcow2 0x40000 8000000000030000
RUN

fixture corrupt/l2-entry-shared.qcow2 'Two L2 entries point at one cluster, both as its only owner.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-shared.qcow2
bytes l2-entry-shared.qcow2 0x40008 8000000000050000
RUN

fixture corrupt/l2-entry-unaligned.qcow2 'An L2 entry points beside a cluster boundary.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-unaligned.qcow2
bytes l2-entry-unaligned.qcow2 0x40000 8000000000050200
RUN

fixture corrupt/l2-entry-past-end.qcow2 'An L2 entry points behind the end of the file.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-past-end.qcow2
bytes l2-entry-past-end.qcow2 0x40000 8000000040000000
RUN

fixture corrupt/l2-entry-reserved.qcow2 'Reserved bits are set in an L2 entry.' later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v3.qcow2 l2-entry-reserved.qcow2
bytes l2-entry-reserved.qcow2 0x40000 bf000000000501fe
RUN

fixture corrupt/l2-zero-in-v2.qcow2 'The zero flag is set in an L2 entry of version 2, which has none.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../v2.qcow2 l2-zero-in-v2.qcow2
bytes l2-zero-in-v2.qcow2 0x40000 8000000000050001
RUN

fixture corrupt/l2-subclusters-both.qcow2 'A subcluster of an extended L2 entry is marked allocated and zero.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../extended-l2.qcow2 l2-subclusters-both.qcow2
bytes l2-subclusters-both.qcow2 0x40008 ffffffffffffffff
RUN

fixture corrupt/refcount-block-at-header.qcow2 'A refcount block lies on the header.' later E_CORRUPT note "$refcount_note" guest no <<'RUN'
cp ../v3.qcow2 refcount-block-at-header.qcow2
bytes refcount-block-at-header.qcow2 0x10000 0000000000000000
bytes refcount-block-at-header.qcow2 0x10008 0000000000000200
RUN

fixture corrupt/refcount-block-at-l1.qcow2 'A refcount block lies on the L1 table.' later E_CORRUPT note "$refcount_note" guest no <<'RUN'
cp ../v3.qcow2 refcount-block-at-l1.qcow2
bytes refcount-block-at-l1.qcow2 0x10000 0000000000030000
RUN

fixture corrupt/refcount-block-past-end.qcow2 'A refcount block is behind the end of the file.' later E_CORRUPT note "$refcount_note" guest no <<'RUN'
cp ../v3.qcow2 refcount-block-past-end.qcow2
bytes refcount-block-past-end.qcow2 0x10000 0000000040000000
RUN

fixture corrupt/refcount-zero.qcow2 'A cluster in use has refcount 0: the next allocation would take it.' \
  later E_CORRUPT note "$refcount_note" guest no <<'RUN'
cp ../v3.qcow2 refcount-zero.qcow2
bytes refcount-zero.qcow2 0x2000a 0000
RUN

fixture corrupt/leak.qcow2 'A cluster that nobody uses has refcount 1: space is lost, content is sound.' \
  note 'check reports a leak and no error' <<'RUN'
cp ../v3.qcow2 leak.qcow2
truncate -s +65536 leak.qcow2
bytes leak.qcow2 "$((0x20000 + 2 * ($(stat -c %s leak.qcow2) / 65536 - 1)))" 0001
RUN

# --- compressed clusters ----------------------------------------------------------------------------
# In compressed-zlib.qcow2 the L2 table is at 0x40000 and the first stream at 0x50000.

fixture corrupt/compressed-garbage.qcow2 'A compressed cluster that is no deflate stream.' later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../compressed-zlib.qcow2 compressed-garbage.qcow2
bytes compressed-garbage.qcow2 0x50000 ffffffffffffffffffffffffffffffff
RUN

fixture corrupt/compressed-past-end.qcow2 'A compressed cluster behind the end of the file.' later E_CORRUPT note "$l2_note" guest no <<'RUN'
cp ../compressed-zlib.qcow2 compressed-past-end.qcow2
bytes compressed-past-end.qcow2 0x40000 4000000040000000
RUN

fixture corrupt/compressed-bomb.qcow2 'A deflate stream that gives 16 MiB for a cluster of 4 KiB: output is bounded by the cluster.' \
  later E_CORRUPT note "$l2_note" guest no <<'RUN'
new compressed-bomb.qcow2 64k -o cluster_size=4k
io compressed-bomb.qcow2 'write -c -P 0x5e 0 4k'
node -e 'process.stdout.write(require("node:zlib").deflateRawSync(Buffer.alloc(1 << 24), { level: 9 }))' >bomb
dd if=bomb of=compressed-bomb.qcow2 bs=4096 seek=5 conv=notrunc status=none
truncate -s 45056 compressed-bomb.qcow2
bytes compressed-bomb.qcow2 0x4000 7c00000000005000
rm bomb
RUN
