#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The commit that --version names: commit_test.sh CMAKE. Follows commits and checkouts, in worktrees too; empty outside a checkout,
# also within somebody else's repository; the header is written only if it changes.
set -euo pipefail

command -v git >/dev/null || { echo "skipped: no git"; exit 77; }
cmake=$1
script=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/src/cli/commit.cmake
work=$(mktemp -d -t reshard-commit.XXXXXX)
trap 'rm -rf "$work"' EXIT
# As if the test ran nowhere near a repository, and not from a hook of one.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export GIT_CONFIG_GLOBAL=/dev/null GIT_{AUTHOR,COMMITTER}_{NAME,EMAIL}=test
header=$work/generated/commit.h

check() { # SOURCE COMMIT [VARIABLE=VALUE]
  env "${@:3}" "$cmake" -D SOURCE="$1" -D HEADER="$header" -P "$script"
  local found
  found=$(cat "$header")
  [ "$found" = "#define RESHARD_COMMIT \"$2\"" ] || { echo "$1: $found, expected $2" >&2; exit 1; }
}

git init -q "$work/checkout"
git -C "$work/checkout" commit -q --allow-empty -m first
first=$(git -C "$work/checkout" rev-parse --short=12 HEAD)
check "$work/checkout" "$first"
touch -d '2001-01-01' "$header"
check "$work/checkout" "$first"
[ "$(stat -c %Y "$header")" -lt 1000000000 ] || { echo "written though nothing changed" >&2; exit 1; }

git -C "$work/checkout" commit -q --allow-empty -m second
second=$(git -C "$work/checkout" rev-parse --short=12 HEAD)
check "$work/checkout" "$second"
git -C "$work/checkout" worktree add -q "$work/tree" HEAD~
check "$work/tree" "$first"
git -C "$work/checkout" checkout -q HEAD~
check "$work/checkout" "$first"

mkdir "$work/checkout/unpacked" "$work/plain"
check "$work/checkout/unpacked" ""
check "$work/plain" ""
check "$work/checkout" "" PATH=/nowhere
