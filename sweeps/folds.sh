#!/usr/bin/env bash
# Train a recipe once for each held-out fold, for out-of-fold scores; make_submission.py averages the runs.
# NUM_FOLDS=5 FOLDS="0 1 2 3 4" sweeps/folds.sh RECIPE TRAIN_FILE OUTPUT_DIR [FLAG ...]
# With --validation_file FILE the rows of FILE are divided among the folds too.
set -uo pipefail
source "$(dirname "$0")/common.sh"
usage 3 "$@"
recipe=$1 train=$2 output=$3 folds=${NUM_FOLDS:-5}
for fold in ${FOLDS:-$(seq 0 $((folds - 1)))}; do
    train "${SCRIPT:-run_classifier.py}" "$output/fold_$fold" --config "$recipe" \
        --train_file "$train" --num_folds "$folds" --fold "$fold" "${@:4}"
done
finish
