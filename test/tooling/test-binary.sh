#!/usr/bin/env bash
# Runs the tests that start imgtx as a process against the single file, which is built first: the same product has to
# come out. Without names of tests it is the slice that CI runs; `npm run test:binary -- test/cli` runs more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bash test/tooling/install-oracles.sh lintian:lintian systemd-analyze:systemd
folder=$(npm run --silent build:binary)
export IMGTX_BIN=$folder/imgtx
[ $# -gt 0 ] || set -- test/binary test/golden test/crash/real test/fuzz/differential.test.ts test/cli/launcher.test.ts \
  test/cli/{exit-status,json,file-names,origins,unwritten,ways-out}.test.ts test/cli/img/{map,convert-fixtures,resize}.test.ts
exec npx vitest run "$@"
