# shellcheck shell=bash
# Images of formats that imgtx does not take. They are here to be recognised by their magic, so what QEMU
# makes from chance and the clock (ids, times) is overwritten, which leaves the checksums of vpc wrong.

foreign='its magic names the format; raw is not guessed'

fixture corrupt/foreign.vmdk 'A VMDK image.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f vmdk foreign.vmdk 1M
sed -i 's/^CID=.*/CID=12345678/' foreign.vmdk
truncate -s 65536 foreign.vmdk
RUN

fixture corrupt/foreign.vdi 'A VirtualBox image.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f vdi foreign.vdi 1M
bytes foreign.vdi 392 "$(repeat 64 1)"
RUN

fixture corrupt/foreign.vhdx 'The first 64 KiB of a VHDX image.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f vhdx foreign.vhdx 1M
truncate -s 65536 foreign.vhdx
RUN

fixture corrupt/foreign.vpc 'A VHD image: a copy of its footer opens the file.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f vpc foreign.vpc 1M
bytes foreign.vpc 24 00000000
bytes foreign.vpc 64 "$(repeat 40 1)"
bytes foreign.vpc 2072 00000000
bytes foreign.vpc 2112 "$(repeat 40 1)"
RUN

fixture corrupt/foreign.qed 'A QED image.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f qed foreign.qed 1M
RUN

fixture corrupt/foreign.qcow 'A qcow image, version 1.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
qemu-img create -q -f qcow foreign.qcow 1M
RUN

fixture corrupt/foreign.luks 'The magic and version of a LUKS volume, and zeros.' format none error E_UNSUPPORTED note "$foreign" guest no <<'RUN'
truncate -s 4096 foreign.luks
bytes foreign.luks 0 4c554b53babe0001
RUN

fixture corrupt/foreign.iso 'Zeros: no magic at all, and no format is said.' format none error E_FORMAT_UNKNOWN note 'raw is not guessed' guest no <<'RUN'
truncate -s 65536 foreign.iso
RUN

fixture corrupt/foreign-as-qcow2.vdi 'A VirtualBox image that is said to be qcow2.' error E_CORRUPT guest no <<'RUN'
cp foreign.vdi foreign-as-qcow2.vdi
RUN

fixture corrupt/foreign-as-raw.vdi 'A VirtualBox image that is said to be raw: it is taken at the word, with a warning.' format raw <<'RUN'
cp foreign.vdi foreign-as-raw.vdi
RUN
