#!/usr/bin/env bash
# Runs one file of tests against a build tree. usage: run.sh LIBQCONV QCONVC TEST_FILE
# 77, which ctest calls skipped, without the virtual environment.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/../../.venv-python/bin/python3
if [ ! -x "$python" ]; then
    echo "no .venv-python: './dev python' makes it"
    exit 77
fi
export QCONV_LIBRARY=$1 QCONVC=$2
exec "$python" -m pytest -q -rs -p no:cacheprovider "$3"
