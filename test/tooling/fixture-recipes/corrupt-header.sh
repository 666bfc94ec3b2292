# shellcheck shell=bash
# Headers that no sound writer makes. Offsets are those of the qcow2 specification. What cannot be believed is
# E_CORRUPT, what could be sound but is beyond imgtx is E_UNSUPPORTED.

fixture corrupt/empty.qcow2 'A file of no bytes, said to be qcow2.' error E_CORRUPT guest no <<'RUN'
: >empty.qcow2
RUN

fixture corrupt/empty-unnamed.qcow2 'A file of no bytes, and no format is said: nothing to recognise.' \
  format none error E_FORMAT_UNKNOWN guest no <<'RUN'
: >empty-unnamed.qcow2
RUN

fixture corrupt/no-magic.qcow2 'Said to be qcow2, but the magic is not there.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 no-magic.qcow2
text no-magic.qcow2 0 'QFI '
RUN

fixture corrupt/header-truncated.qcow2 'The file ends inside the header.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 header-truncated.qcow2
truncate -s 90 header-truncated.qcow2
RUN

fixture corrupt/header-truncated-v2.qcow2 'The file ends inside the header of version 2.' error E_CORRUPT guest no <<'RUN'
cp ../v2.qcow2 header-truncated-v2.qcow2
truncate -s 71 header-truncated-v2.qcow2
RUN

for version in 0 1 4; do
  fixture "corrupt/version-$version.qcow2" "Version $version, which does not exist." \
    error E_UNSUPPORTED guest no <<RUN
cp ../v3.qcow2 version-$version.qcow2
be32 version-$version.qcow2 4 $version
RUN
done

for bits in 0 8 22 63; do
  fixture "corrupt/cluster-bits-$bits.qcow2" "cluster_bits is $bits; 9 to 21 are allowed." \
    error E_CORRUPT guest no <<RUN
cp ../v3.qcow2 cluster-bits-$bits.qcow2
be32 cluster-bits-$bits.qcow2 20 $bits
RUN
done

fixture corrupt/refcount-order-7.qcow2 'refcount_order is 7: refcounts of 128 bits.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-order-7.qcow2
be32 refcount-order-7.qcow2 96 7
RUN

fixture corrupt/header-length-odd.qcow2 'header_length is 109, no multiple of 8.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 header-length-odd.qcow2
be32 header-length-odd.qcow2 100 109
RUN

fixture corrupt/header-length-short.qcow2 'header_length is 96, less than version 3 has.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 header-length-short.qcow2
be32 header-length-short.qcow2 100 96
RUN

fixture corrupt/header-length-long.qcow2 'header_length is beyond the first cluster.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 header-length-long.qcow2
be32 header-length-long.qcow2 100 0x7ffffff8
RUN

fixture corrupt/encrypted-aes.qcow2 'crypt_method 1 (AES).' error E_UNSUPPORTED guest no <<'RUN'
cp ../v3.qcow2 encrypted-aes.qcow2
be32 encrypted-aes.qcow2 32 1
RUN

fixture corrupt/encrypted-luks.qcow2 'crypt_method 2 (LUKS), with the header extension that points at its header.' \
  error E_UNSUPPORTED guest no <<'RUN'
cp ../v3.qcow2 encrypted-luks.qcow2
be32 encrypted-luks.qcow2 32 2
be32 encrypted-luks.qcow2 112 0x0537be77
be32 encrypted-luks.qcow2 116 16
be64 encrypted-luks.qcow2 120 0x50000
be64 encrypted-luks.qcow2 128 0x10000
be64 encrypted-luks.qcow2 136 0
RUN

fixture corrupt/encrypted-unknown.qcow2 'crypt_method 9, which does not exist.' error E_UNSUPPORTED guest no <<'RUN'
cp ../v3.qcow2 encrypted-unknown.qcow2
be32 encrypted-unknown.qcow2 32 9
RUN

fixture corrupt/bit-unknown-named.qcow2 'Incompatible bit 40 is set, and the feature name table calls it "time travel".' \
  error E_UNSUPPORTED note 'the message names the bit as the table does' guest no <<'RUN'
cp ../v3.qcow2 bit-unknown-named.qcow2
be64 bit-unknown-named.qcow2 72 $((1 << 40))
bytes bit-unknown-named.qcow2 120 0028
bytes bit-unknown-named.qcow2 122 000000000000000000
text bit-unknown-named.qcow2 122 'time travel'
RUN

fixture corrupt/bit-unknown-escape.qcow2 'The same, and the name in the table has control characters: they must not reach a terminal.' \
  error E_UNSUPPORTED note 'the message shows no control character' guest no <<'RUN'
cp bit-unknown-named.qcow2 bit-unknown-escape.qcow2
bytes bit-unknown-escape.qcow2 122 1b5d303b6f776e65640700
RUN

fixture corrupt/bit-unknown-nameless.qcow2 'Incompatible bit 63 is set and has no name.' error E_UNSUPPORTED guest no <<'RUN'
cp ../v3.qcow2 bit-unknown-nameless.qcow2
be64 bit-unknown-nameless.qcow2 72 $((1 << 63))
RUN

fixture corrupt/bit-corrupt.qcow2 'The corrupt bit is set: to be read, not to be written.' write E_CORRUPT <<'RUN'
cp ../v3.qcow2 bit-corrupt.qcow2
be64 bit-corrupt.qcow2 72 2
RUN

fixture corrupt/bit-dirty.qcow2 'The dirty bit is set without lazy refcounts.' write E_REFUSED <<'RUN'
cp ../v3.qcow2 bit-dirty.qcow2
be64 bit-dirty.qcow2 72 1
RUN

fixture corrupt/compression-type-2.qcow2 'The compression-type bit is set and the type is 2, which does not exist.' \
  error E_UNSUPPORTED guest no <<'RUN'
cp ../v3.qcow2 compression-type-2.qcow2
be64 compression-type-2.qcow2 72 8
bytes compression-type-2.qcow2 104 02
RUN

fixture corrupt/compression-type-without-bit.qcow2 'The compression type is Zstandard, its incompatible bit is not set.' \
  error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 compression-type-without-bit.qcow2
bytes compression-type-without-bit.qcow2 104 01
RUN

fixture corrupt/extended-l2-small-clusters.qcow2 'Extended L2 entries with clusters of 4 KiB: subclusters would be 128 B.' \
  error E_CORRUPT guest no <<'RUN'
cp ../cluster-4k.qcow2 extended-l2-small-clusters.qcow2
be64 extended-l2-small-clusters.qcow2 72 16
RUN

# --- header extensions ------------------------------------------------------------------------------

fixture corrupt/extension-overrun.qcow2 'An extension that runs out of the first cluster.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 extension-overrun.qcow2
be32 extension-overrun.qcow2 116 0xffff
RUN

fixture corrupt/extension-huge.qcow2 'An extension of 4 GiB: its length wraps a 32-bit sum.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 extension-huge.qcow2
be32 extension-huge.qcow2 116 0xfffffff8
RUN

fixture corrupt/extensions-unended.qcow2 'Extensions of no bytes up to the end of the first cluster: no end mark.' error E_CORRUPT guest no <<'RUN'
cp ../cluster-512.qcow2 extensions-unended.qcow2
offset=112
while [ "$offset" -lt 512 ]; do
  be32 extensions-unended.qcow2 "$offset" 0x494d4758
  be32 extensions-unended.qcow2 "$((offset + 4))" 0
  offset=$((offset + 8))
done
RUN

fixture corrupt/feature-table-odd.qcow2 'A feature name table of 380 bytes; an entry has 48.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 feature-table-odd.qcow2
be32 feature-table-odd.qcow2 116 380
RUN

# --- size and tables, as the header gives them ------------------------------------------------------

fixture corrupt/virtual-size-huge.qcow2 'A virtual size of 2^63 bytes and more.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 virtual-size-huge.qcow2
be64 virtual-size-huge.qcow2 24 0xfffffffffffffe00
RUN

fixture corrupt/virtual-size-petabyte.qcow2 'A virtual size of 1 PiB, and the L1 table is for 1 MiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 virtual-size-petabyte.qcow2
be64 virtual-size-petabyte.qcow2 24 $((1 << 50))
RUN

fixture corrupt/petabyte.qcow2 'A virtual size of 1 PiB, with all the tables that it takes: sound, and nobody may allocate by it (CVE-2015-5162).' \
  guest no <<'RUN'
new petabyte.qcow2 1P -o cluster_size=2M
RUN

fixture corrupt/l1-huge.qcow2 'An L1 table of 32 GiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-huge.qcow2
be32 l1-huge.qcow2 36 0xffffffff
RUN

fixture corrupt/l1-over-limit.qcow2 'An L1 table one entry over 32 MiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-over-limit.qcow2
be32 l1-over-limit.qcow2 36 4194305
RUN

fixture corrupt/l1-short.qcow2 'An L1 table of no entries for a virtual size of 1 MiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-short.qcow2
be32 l1-short.qcow2 36 0
RUN

fixture corrupt/l1-truncated.qcow2 'The file ends before the L1 table.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-truncated.qcow2
truncate -s 196608 l1-truncated.qcow2
RUN

fixture corrupt/l1-unaligned.qcow2 'The L1 table is not on a cluster boundary.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-unaligned.qcow2
be64 l1-unaligned.qcow2 40 0x30200
RUN

fixture corrupt/l1-beyond-2-56.qcow2 'The L1 table is at 2^56 and more.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-beyond-2-56.qcow2
be64 l1-beyond-2-56.qcow2 40 0xff00000000030000
RUN

fixture corrupt/l1-at-header.qcow2 'The L1 table lies on the header.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 l1-at-header.qcow2
be64 l1-at-header.qcow2 40 0
RUN

fixture corrupt/refcount-table-huge.qcow2 'A refcount table of 256 TiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-huge.qcow2
be32 refcount-table-huge.qcow2 56 0xffffffff
RUN

fixture corrupt/refcount-table-over-limit.qcow2 'A refcount table one cluster over 8 MiB.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-over-limit.qcow2
be32 refcount-table-over-limit.qcow2 56 129
RUN

fixture corrupt/refcount-table-none.qcow2 'A refcount table of no clusters.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-none.qcow2
be32 refcount-table-none.qcow2 56 0
RUN

fixture corrupt/refcount-table-unaligned.qcow2 'The refcount table is not on a cluster boundary.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-unaligned.qcow2
be64 refcount-table-unaligned.qcow2 48 0x10008
RUN

fixture corrupt/refcount-table-at-header.qcow2 'The refcount table lies on the header.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-at-header.qcow2
be64 refcount-table-at-header.qcow2 48 0
RUN

fixture corrupt/refcount-table-past-end.qcow2 'The refcount table is behind the end of the file.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-past-end.qcow2
be64 refcount-table-past-end.qcow2 48 0x40000000
RUN

fixture corrupt/refcount-table-at-l1.qcow2 'The refcount table lies on the L1 table.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 refcount-table-at-l1.qcow2
be64 refcount-table-at-l1.qcow2 48 0x30000
RUN
