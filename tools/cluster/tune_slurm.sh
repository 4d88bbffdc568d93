#!/usr/bin/env bash
# A tuning run as a Slurm job array: docs/tuning.md.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tune_slurm.sh SHARDS FOLDER LAYERS [OPTION OF qconvc tune...]

Submits SHARDS parts of a tuning run as one job array, and a job after them that merges their records into
FOLDER/tuned.db. FOLDER must be on a file system that all nodes share. A part that is killed is started again and goes on
where it was; one whose node fails is requeued. The same command later submits all parts again: those that are complete
end at once.

Needs sbatch, and qconvc at the path in QCONVC (default: qconvc on PATH) on each node. SBATCH_OPTIONS are sbatch's, for
instance a partition, a constraint for one kind of node, or --exclusive, which keeps timings quiet.

    SBATCH_OPTIONS='--constraint=zen4 --exclusive' tune_slurm.sh 40 out net.json --target host --budget 400
EOF
}

[ $# -ge 3 ] || { usage >&2; exit 2; }
shards=$1 folder=$2 layers=$3
shift 3
[[ $shards =~ ^[1-9][0-9]*$ ]] || { echo "tune_slurm.sh: SHARDS is '$shards'; it must be a number of parts" >&2; exit 2; }
[ -r "$layers" ] || { echo "tune_slurm.sh: $layers: cannot read this layer file" >&2; exit 2; }
qconvc=$(command -v "${QCONVC:-qconvc}") || { echo "tune_slurm.sh: ${QCONVC:-qconvc} was not found" >&2; exit 3; }
mkdir -p "$folder"
file=layers.${layers##*.} # .json or .csv
cp "$layers" "$folder/$file"
cd "$folder"
read -r -a options <<<"${SBATCH_OPTIONS:-}"
arguments=$(printf ' %q' "$@")
part='part.$SLURM_ARRAY_TASK_ID'
array=$(sbatch --parsable --job-name=qconv-tune --array="1-$shards" --requeue --open-mode=append --output=part.%a.out \
    "${options[@]}" --wrap "
for attempt in 1 2 3 4; do
    $qconvc tune $file --shard \$SLURM_ARRAY_TASK_ID/$shards --records $part.jsonl$arguments && exit 0
    status=\$?
    [ \$status -ge 128 ] || exit \$status
done
exit \$status")
merge=$(sbatch --parsable --job-name=qconv-merge --dependency="afterok:$array" --output=merge.out "${options[@]}" \
    --wrap "$qconvc tune --merge tuned.db part.*.jsonl")
echo "array job $array, then merge job $merge; records and logs in $PWD"
