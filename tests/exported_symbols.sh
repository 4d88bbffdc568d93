#!/usr/bin/env bash
# Prints the symbols that libqconv.so exports, with the versions that programs record: its ABI.
# usage: exported_symbols.sh LIBQCONV.so
set -euo pipefail
nm -D --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort
