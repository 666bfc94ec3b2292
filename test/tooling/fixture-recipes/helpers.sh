# shellcheck shell=bash
# Words that the recipes are written in. Each recipe runs in the folder that its image is made in.
: "${images:?the folder to make images in}" "${facts:?the folder for what is known of them}"

# fixture NAME 'what it shows' [KEY VALUE]… <<'RUN' … RUN
#
# Runs the recipe and notes it with its keys:
#   format F     how the image is to be opened (default qcow2; "none": no flag, recognised by its magic)
#   needs "A B"  fixtures that have to lie beside it
#   error CODE   opening its chain is refused with this code
#   later CODE   opening succeeds; the damage is met by the code that reads or changes what lies deeper
#   write CODE   opening for reading succeeds; whoever is to write refuses with this code
#   note TEXT    why, where the code alone does not say it
#   guest no     the guest content is not hashed (too large, or QEMU will not read it)
fixture_number=0
fixture() {
  local name=$1 shows=$2 folder recipe key status
  shift 2
  recipe=$(cat)
  fixture_number=$((fixture_number + 1))
  folder=$facts/$(printf '%04d' "$fixture_number")
  mkdir -p "$folder"
  printf '%s' "$name" >"$folder/name"
  printf '%s' "$shows" >"$folder/shows"
  printf '%s' "$recipe" >"$folder/recipe"
  while [ $# -gt 0 ]; do
    key=$1
    printf '%s' "$2" >"$folder/$key"
    shift 2
  done
  # Not inside an "if": there set -e is off, and a recipe would go on behind a failure.
  set +e
  (set -e; cd "$images/$(dirname "$name")"; eval "$recipe")
  status=$?
  set -e
  [ "$status" = 0 ] || { echo "make-fixtures: the recipe of $name failed" >&2; exit 1; }
  [ -f "$images/$name" ] || { echo "make-fixtures: the recipe of $name made no $name" >&2; exit 1; }
}

# A new qcow2 image, without chatter: new NAME SIZE [OPTION…]
new() {
  local name=$1 size=$2
  shift 2
  qemu-img create -q -f qcow2 "$@" "$name" "$size"
}

# Guest writes, each a qemu-io command: io NAME 'write -P 0x11 0 64k' …
io() {
  local name=$1 command
  local arguments=()
  shift
  for command in "$@"; do arguments+=(-c "${command/#write /write -q }"); done
  qemu-io -f qcow2 "${arguments[@]}" "$name"
}

# The same, and then the writer dies by kill -9 with the image open.
killed() {
  local status=0
  (io "$@" 'flush' 'sigraise 9') 2>/dev/null || status=$?
  [ "$status" = 137 ] || { echo "qemu-io ended with $status, not by a signal" >&2; return 1; }
}

# bytes NAME OFFSET HEX: overwrites bytes in place.
bytes() {
  local hex=$3 escaped=''
  while [ -n "$hex" ]; do
    escaped+="\\x${hex:0:2}"
    hex=${hex:2}
  done
  printf '%b' "$escaped" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc status=none
}

# Big-endian numbers: be16|be32|be64 NAME OFFSET VALUE.
be16() { bytes "$1" "$2" "$(printf '%04x' "$(($3))")"; }
be32() { bytes "$1" "$2" "$(printf '%08x' "$(($3))")"; }
be64() { bytes "$1" "$2" "$(printf '%016x' "$(($3))")"; }

# text NAME OFFSET STRING, without a byte behind it.
text() { printf '%s' "$3" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc status=none; }

# The big-endian number of SIZE (2, 4 or 8) bytes at OFFSET: number NAME OFFSET SIZE.
number() { od -An -v --endian=big -tu"$3" -j "$(($2))" -N "$3" "$1" | tr -d ' '; }

# repeat COUNT CHARACTER
repeat() { printf "%${1}s" '' | tr ' ' "$2"; }

# Sets the times of all internal snapshots to 2020-01-01: QEMU writes the clock.
fix_snapshot_times() {
  local count at extra
  count=$(number "$1" 60 4)
  at=$(number "$1" 64 8)
  while [ "$count" -gt 0 ]; do
    be32 "$1" $((at + 16)) 1577836800
    be32 "$1" $((at + 20)) 0
    extra=$(number "$1" $((at + 36)) 4)
    at=$((at + 40 + extra + $(number "$1" $((at + 12)) 2) + $(number "$1" $((at + 14)) 2)))
    at=$(((at + 7) / 8 * 8))
    count=$((count - 1))
  done
}
