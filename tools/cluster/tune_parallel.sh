#!/usr/bin/env bash
# A tuning run over several machines with GNU parallel and ssh: docs/tuning.md.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tune_parallel.sh HOSTS SHARDS FOLDER LAYERS [OPTION OF qconvc tune...]

Runs SHARDS parts of a tuning run, one at a time on each machine of HOSTS (as parallel's --sshlogin has it: a,user@b, ':'
for this machine), brings their records to FOLDER and merges them into FOLDER/tuned.db. A part whose machine or process
dies is tried again, on another machine if there is one. The same command after an interrupt runs what has not ended well.

Needs parallel and rsync here, and on each machine: sshd, rsync, and qconvc at the path in QCONVC (default: qconvc on PATH).

    QCONVC=/opt/qconv/bin/qconvc tune_parallel.sh board1,board2 8 out net.json --target host --budget 200
EOF
}

[ $# -ge 4 ] || { usage >&2; exit 2; }
hosts=$1 shards=$2 folder=$3 layers=$4
shift 4
[[ $shards =~ ^[1-9][0-9]*$ ]] || { echo "tune_parallel.sh: SHARDS is '$shards'; it must be a number of parts" >&2; exit 2; }
[ -r "$layers" ] || { echo "tune_parallel.sh: $layers: cannot read this layer file" >&2; exit 2; }
qconvc=${QCONVC:-qconvc}
mkdir -p "$folder"
file=layers.${layers##*.} # .json or .csv
cp "$layers" "$folder/$file"
cd "$folder"
# Records stay where they were made until the part is complete: a part that is tried again on the same machine resumes.
remote=.cache/qconv-tune/$(basename "$PWD")
options=$(printf ' %q' "$@")
parallel --sshlogin "$hosts" --jobs 1 --joblog joblog --resume-failed --retries 4 --workdir "$remote" \
    --transferfile "$file" --return part.{}.tar \
    "$qconvc tune $file --shard {}/$shards --records part.{}.jsonl$options >part.{}.out 2>&1 && tar cf part.{}.tar --exclude=*.tar --exclude=.qconvc-* part.{}.*" \
    ::: $(seq "$shards")
for part in part.*.tar; do
    tar xf "$part"
done
"$qconvc" tune --merge tuned.db part.*.jsonl
