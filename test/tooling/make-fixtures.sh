#!/usr/bin/env bash
# Makes every image under fixtures/ anew, with its facts in fixtures/manifest.json and fixtures/README.md.
#
#   bash test/tooling/make-fixtures.sh [FOLDER]      default: fixtures/ of this repository
#
# Needs qemu-img and qemu-io (7.2 gives the very bytes that are stored), and node. The recipes are in
# fixture-recipes/: what runs is what the README quotes. Contents are fixed patterns and everything that
# QEMU takes from the clock or from chance is overwritten, so that a second run changes nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${1:-$here/../../fixtures}

for tool in qemu-img qemu-io node; do
  command -v "$tool" >/dev/null || { echo "make-fixtures: $tool is missing" >&2; exit 1; }
done
version=$(qemu-img --version | sed -n '1s/^qemu-img version \([0-9]*\.[0-9]*\).*/\1/p')
[ "$version" = 7.2 ] || echo "make-fixtures: qemu-img is $version, not 7.2: hashes may differ" >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
images=$work/images
facts=$work/facts
mkdir -p "$images/corrupt" "$images/nested" "$facts"

# shellcheck source=test/tooling/fixture-recipes/helpers.sh
. "$here/fixture-recipes/helpers.sh"
# shellcheck source=test/tooling/fixture-recipes/good.sh
. "$here/fixture-recipes/good.sh"
# shellcheck source=test/tooling/fixture-recipes/chains.sh
. "$here/fixture-recipes/chains.sh"
# shellcheck source=test/tooling/fixture-recipes/corrupt-header.sh
. "$here/fixture-recipes/corrupt-header.sh"
# shellcheck source=test/tooling/fixture-recipes/corrupt-references.sh
. "$here/fixture-recipes/corrupt-references.sh"
# shellcheck source=test/tooling/fixture-recipes/corrupt-tables.sh
. "$here/fixture-recipes/corrupt-tables.sh"
# shellcheck source=test/tooling/fixture-recipes/foreign.sh
. "$here/fixture-recipes/foreign.sh"

mkdir -p "$target"
node --import "$here/typescript.mjs" "$here/pack-fixtures.ts" "$images" "$facts" "$target"
