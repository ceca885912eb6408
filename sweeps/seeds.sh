#!/usr/bin/env bash
# The same recipe with several seeds, to tell an effect from luck; make_submission.py averages the runs.
# sweeps/seeds.sh RECIPE TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [SEED ...]
set -uo pipefail
recipe=$1 train=$2 validation=$3 output=$4
shift 4
failed=()
[ $# -gt 0 ] || set -- 1 2 3
for seed in "$@"; do
    run=$output/seed$seed
    if [ -e "$run/all_results.json" ]; then
        echo "$run is finished: skipped"
        continue
    fi
    accelerate launch --config_file "${ACCELERATE_CONFIG:-accelerate_configs/cpu.yaml}" run_classifier.py \
        --config "$recipe" --train_file "$train" --validation_file "$validation" \
        --output_dir "$run" --seed "$seed" || failed+=("$run")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
