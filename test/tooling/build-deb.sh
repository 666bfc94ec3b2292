#!/usr/bin/env bash
# Makes the Debian package of the single file, with dpkg-deb alone, and prints its name:
#
#     npm run build:deb [-- TARGET]        x64 or arm64; default: this machine's. Lies in out/ then.
#
# DEBFULLNAME and DEBEMAIL name the maintainer, IMGTX_BUILT is the folder of a single file that is built,
# IMGTX_OUT another place for the package, IMGTX_DEB_VERSION another version, IMGTX_DEB_PACK another way to pack
# (-Zgzip is quick).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=${IMGTX_OUT:-$PWD/out}
built=${IMGTX_BUILT:-$(npm run --silent build:binary -- "$@")}
version=${IMGTX_DEB_VERSION:-$(node -p 'require("./package.json").version')-1}
case $built in *-arm64) architecture=arm64 ;; *) architecture=amd64 ;; esac
maintainer="${DEBFULLNAME:-The imgtx authors} <${DEBEMAIL:-imgtx@users.noreply.github.com}>"
date=$(date -R -d "@${SOURCE_DATE_EPOCH:-$(stat -c %Y CHANGELOG.md)}")
sources=test/tooling/debian
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"

# FILE MODE TARGET
put() { install -D -m "$2" "$1" "$root/$3"; }

put "$built/imgtx" 0755 usr/bin/imgtx
put "$sources/recover-all" 0755 usr/lib/imgtx/recover-all
ln -s ../../bin/imgtx "$root/usr/lib/imgtx/qemu-img"
# PAGE MODE TARGET: the script of a manual page, as it stands there.
put_script() {
  awk 'found && /^\.Ed/ { exit } found { gsub(/\\e/, "\\"); print } /^\.Bd -literal$/ { found = 1 }' "$1" >"$root/script"
  put "$root/script" "$2" "$3"
  rm "$root/script"
}
put_script man/imgtx-nightly.7 0755 usr/lib/imgtx/nightly
put_script man/imgtx-libvirt.7 0755 usr/share/doc/imgtx/examples/libvirt-hook
for unit in imgtx-recover.service imgtx-nightly@.service imgtx-nightly@.timer; do
  put "$sources/$unit" 0644 "lib/systemd/system/$unit"
done
put bin/ansible/imgtx.py 0644 usr/share/ansible/plugins/modules/imgtx.py
put "$sources/workspaces" 0644 etc/imgtx/workspaces
put "$sources/lintian-overrides" 0644 usr/share/lintian/overrides/imgtx
for page in man/*; do
  put "$page" 0644 "usr/share/man/man${page##*.}/${page##*/}"
  gzip -9n "$root/usr/share/man/man${page##*.}/${page##*/}"
done
complete() {
  mkdir -p "$root/${2%/*}"
  node bin/imgtx.js completion "$1" >"$root/$2"
}
complete bash usr/share/bash-completion/completions/imgtx
complete zsh usr/share/zsh/vendor-completions/_imgtx
complete fish usr/share/fish/vendor_completions.d/imgtx.fish

documents=$root/usr/share/doc/imgtx
mkdir -p "$documents"
{
  printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: imgtx\n'
  printf '\nFiles: *\nCopyright: 2026 The imgtx authors\nLicense: Expat and others\n'
  # A paragraph of one field: a dot for an empty line.
  sed 's/^$/./; s/^/ /' "$built/LICENSES.txt"
} >"$documents/copyright"
gzip -9nc CHANGELOG.md >"$documents/changelog.gz"
printf 'imgtx (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' "$version" "$maintainer" "$date" |
  gzip -9nc >"$documents/changelog.Debian.gz"

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do put "$sources/$script" 0755 "DEBIAN/$script"; done
echo /etc/imgtx/workspaces >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: imgtx
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: libc6 (>= 2.17)
Suggests: qemu-utils
Section: utils
Priority: optional
Description: transactions on disk images, several disks at a time
 Changes disk images (qcow2, raw, backing chains) directly on disk: snapshots,
 merges, resizes, mirrors and more, of all disks of a virtual machine or of
 none. A journal makes a crash or a power cut at any instant leave every disk
 wholly before or wholly after. It speaks QEMU's lock protocol, needs no daemon
 and nothing of QEMU, and its commands for single images take qemu-img's words.
CONTROL
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
package=$out/imgtx_${version}_$architecture.deb
# shellcheck disable=SC2086 # Several words.
dpkg-deb ${IMGTX_DEB_PACK:--Zxz} --root-owner-group --build "$root" "$package" >&2
printf '%s\n' "$package"
