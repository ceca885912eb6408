#!/usr/bin/env bash
# Train a recipe with several seeds, to separate an effect from noise; make_submission.py averages the runs.
# SEEDS="1 2 3" sweeps/seeds.sh RECIPE TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [FLAG ...]
set -uo pipefail
source "$(dirname "$0")/common.sh"
usage 4 "$@"
recipe=$1 train=$2 validation=$3 output=$4
for seed in ${SEEDS:-1 2 3}; do
    train "${SCRIPT:-run_classifier.py}" "$output/seed$seed" --config "$recipe" \
        --train_file "$train" --validation_file "$validation" --seed "$seed" "${@:5}"
done
finish
