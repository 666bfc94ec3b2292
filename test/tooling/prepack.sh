#!/usr/bin/env bash
# What `npm pack` runs first: builds dist/, which the package is made of. In a clone where nothing has been
# installed yet it installs first what the build needs, so that packing a clean clone needs one command. That is
# done for real in a dry run too, which npm hands on to every npm below it: without a build there is nothing to list.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Standard output is left to npm, whose callers read the name of the package there.
exec >&2
[ -d node_modules/esbuild ] || npm ci --ignore-scripts --prefer-offline --no-dry-run
npm run --silent build
