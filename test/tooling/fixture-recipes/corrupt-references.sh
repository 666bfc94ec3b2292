# shellcheck shell=bash
# Names in an image that lead to where a guest may have pointed them. All are made as a hostile guest with
# write access to the file would: the names are not checked when they are stored.

fixture corrupt/backing-host-file.qcow2 'The backing name is a host file, as raw: the guest would read it (CVE-2015-5163).' \
  error E_OUTSIDE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw backing-host-file.qcow2 1M
RUN

fixture corrupt/backing-host-file-no-format.qcow2 'The same without a backing format.' error E_FORMAT_UNKNOWN note 'raw is never guessed' guest no <<'RUN'
cp backing-host-file.qcow2 backing-host-file-no-format.qcow2
be32 backing-host-file-no-format.qcow2 112 0x494d4758
RUN

fixture corrupt/backing-host-file-as-qcow2.qcow2 'The backing name is a host file, as qcow2: it has to parse, and does not.' \
  error E_CORRUPT guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b /etc/passwd -F qcow2 backing-host-file-as-qcow2.qcow2 1M
RUN

fixture corrupt/backing-climbs.qcow2 'The backing name climbs to a host file by a relative path.' error E_OUTSIDE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b ../../../../../../../../../../etc/passwd -F raw backing-climbs.qcow2 1M
RUN

fixture corrupt/backing-device.qcow2 'The backing name is a device node, as raw.' error E_OUTSIDE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b /dev/zero -F raw backing-device.qcow2 1M
RUN

fixture corrupt/backing-device-qcow2.qcow2 'The backing name is a device node, as qcow2: not a regular file.' error E_NOT_A_FILE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b /dev/zero -F qcow2 backing-device-qcow2.qcow2 1M
RUN

fixture corrupt/backing-folder.qcow2 'The backing name is a folder.' error E_NOT_A_FILE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b . -F qcow2 backing-folder.qcow2 1M
RUN

fixture corrupt/backing-of-backing.qcow2 'The overlay is harmless, its qcow2 base names a host file: the gate holds at every step.' \
  needs corrupt/backing-host-file.qcow2 error E_OUTSIDE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b backing-host-file.qcow2 -F qcow2 backing-of-backing.qcow2 1M
RUN

fixture corrupt/backing-json.qcow2 'A json: backing name (CVE-2024-4467).' error E_OUTSIDE guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}' -F raw backing-json.qcow2 1M
RUN

fixture corrupt/backing-nbd.qcow2 'A network backing name.' error E_UNSUPPORTED guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b nbd:127.0.0.1:10809 -F raw backing-nbd.qcow2 1M
RUN

fixture corrupt/backing-https.qcow2 'A network backing name, as qcow2.' error E_UNSUPPORTED guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b https://images.invalid/base.qcow2 -F qcow2 backing-https.qcow2 1M
RUN

fixture corrupt/backing-file-protocol.qcow2 'A file: backing name: QEMU takes it from its current folder.' \
  needs base.raw guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b file:../base.raw -F raw backing-file-protocol.qcow2 1M
RUN

fixture corrupt/backing-format-vmdk.qcow2 'A backing format that imgtx does not read.' needs corrupt/foreign.vmdk error E_UNSUPPORTED guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b foreign.vmdk -F vmdk backing-format-vmdk.qcow2 1M
RUN

fixture corrupt/backing-format-unknown.qcow2 'A backing format that nobody knows.' needs base.raw error E_UNSUPPORTED guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b ../base.raw -F raw backing-format-unknown.qcow2 1M
text backing-format-unknown.qcow2 120 'rAw'
RUN

fixture corrupt/backing-self.qcow2 'An image that backs itself.' error E_LOOP guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b someone-else.qcow2 -F qcow2 backing-self.qcow2 1M
text backing-self.qcow2 "$(number backing-self.qcow2 8 8)" backing-self.qcow2
RUN

fixture corrupt/backing-self-raw.qcow2 'An image that backs itself, as raw.' error E_LOOP guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b someone-else-raw.qcow2 -F raw backing-self-raw.qcow2 1M
text backing-self-raw.qcow2 "$(number backing-self-raw.qcow2 8 8)" backing-self-raw.qcow2
RUN

fixture corrupt/backing-loop-a.qcow2 'Two images that back each other.' needs corrupt/backing-loop-b.qcow2 error E_LOOP guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b backing-loop-b.qcow2 -F qcow2 backing-loop-a.qcow2 1M
RUN

fixture corrupt/backing-loop-b.qcow2 'The other one; its name for the first takes a detour.' needs corrupt/backing-loop-a.qcow2 error E_LOOP guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b ../corrupt/./backing-loop-a.qcow2 -F qcow2 backing-loop-b.qcow2 1M
RUN

fixture corrupt/backing-name-long.qcow2 'A backing name of 1,024 bytes; 1,023 are allowed.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 backing-name-long.qcow2
be64 backing-name-long.qcow2 8 1024
be32 backing-name-long.qcow2 16 1024
text backing-name-long.qcow2 1024 "$(repeat 1024 n)"
RUN

fixture corrupt/backing-name-outside.qcow2 'A backing name that ends behind the first cluster.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 backing-name-outside.qcow2
be64 backing-name-outside.qcow2 8 0xfff0
be32 backing-name-outside.qcow2 16 64
RUN

fixture corrupt/backing-name-far.qcow2 'A backing name at the end of what an offset can say.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 backing-name-far.qcow2
be64 backing-name-far.qcow2 8 0xfffffffffffffff0
be32 backing-name-far.qcow2 16 32
RUN

fixture corrupt/backing-name-in-header.qcow2 'A backing name that lies on the fields of the header.' error E_CORRUPT guest no <<'RUN'
cp ../v3.qcow2 backing-name-in-header.qcow2
be64 backing-name-in-header.qcow2 8 16
be32 backing-name-in-header.qcow2 16 8
RUN

fixture corrupt/backing-name-nul.qcow2 'A NUL byte in the backing name: what is checked and what is opened would differ.' error E_CORRUPT guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b ../base.raw.harmless -F raw backing-name-nul.qcow2 1M
bytes backing-name-nul.qcow2 "$(($(number backing-name-nul.qcow2 8 8) + 11))" 00
RUN

fixture corrupt/backing-name-control.qcow2 'Control characters in the backing name: they must not reach a terminal.' \
  error E_NOT_FOUND note 'the message shows no control character' guest no <<'RUN'
qemu-img create -q -f qcow2 -u -b XXXXbase.qcow2 -F qcow2 backing-name-control.qcow2 1M
bytes backing-name-control.qcow2 "$(number backing-name-control.qcow2 8 8)" 1b5b324a
RUN

fixture corrupt/data-file-host.qcow2 'The external data file is a host file (CVE-2024-32498).' error E_OUTSIDE guest no <<'RUN'
new data-file-host.qcow2 512k -o data_file=12345678901
text data-file-host.qcow2 120 /etc/passwd
rm 12345678901
RUN

fixture corrupt/data-file-device.qcow2 'The external data file is a device node.' error E_OUTSIDE guest no <<'RUN'
new data-file-device.qcow2 512k -o data_file=123456789
text data-file-device.qcow2 120 /dev/zero
rm 123456789
RUN

fixture corrupt/data-file-json.qcow2 'The external data file is a json: name.' error E_UNSUPPORTED guest no <<'RUN'
new data-file-json.qcow2 512k -o data_file=1234567890123456789012345
text data-file-json.qcow2 120 'json:{"driver":"null-co"}'
rm 1234567890123456789012345
RUN

fixture corrupt/data-file-nbd.qcow2 'The external data file is a network name.' error E_UNSUPPORTED guest no <<'RUN'
new data-file-nbd.qcow2 512k -o data_file=1234567890123
text data-file-nbd.qcow2 120 nbd:127.0.0.1
rm 1234567890123
RUN

fixture corrupt/data-file-missing.qcow2 'The external data file is not there.' error E_NOT_FOUND guest no <<'RUN'
new data-file-missing.qcow2 512k -o data_file=data-file-missing.bin
rm data-file-missing.bin
RUN

fixture corrupt/data-file-self.qcow2 'The image is its own data file.' error E_LOOP guest no <<'RUN'
new data-file-self.qcow2 512k -o data_file=12345678901234567890
text data-file-self.qcow2 120 data-file-self.qcow2
rm 12345678901234567890
RUN

fixture corrupt/data-file-nameless.qcow2 'The data-file bit is set, and no extension names the file.' \
  error E_UNSUPPORTED note 'QEMU takes the name as an option; the image by itself may be sound' guest no <<'RUN'
cp ../v3.qcow2 data-file-nameless.qcow2
be64 data-file-nameless.qcow2 72 4
RUN

fixture corrupt/data-file-raw-backing.qcow2 'A raw data file and a backing file: the two exclude each other.' \
  needs 'base.raw data-file-raw.raw' error E_CORRUPT guest no <<'RUN'
new data-file-raw-backing.qcow2 512k -o data_file=12345678901234567890,data_file_raw=on
text data-file-raw-backing.qcow2 120 ../data-file-raw.raw
rm 12345678901234567890
be64 data-file-raw-backing.qcow2 8 0x1000
be32 data-file-raw-backing.qcow2 16 11
text data-file-raw-backing.qcow2 0x1000 ../base.raw
RUN
