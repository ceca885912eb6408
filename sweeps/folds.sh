#!/usr/bin/env bash
# A recipe on each fold of the training rows, for out-of-fold scores; make_submission.py averages the runs.
# sweeps/folds.sh RECIPE TRAIN_FILE OUTPUT_DIR [NUM_FOLDS [FLAG ...]]
set -uo pipefail
source "$(dirname "$0")/common.sh"
recipe=$1 train=$2 output=$3 folds=${4:-5}
shift $(($# < 4 ? $# : 4))
for ((fold = 0; fold < folds; fold++)); do
    train "${SCRIPT:-run_classifier.py}" "$output/fold_$fold" --config "$recipe" \
        --train_file "$train" --num_folds "$folds" --fold "$fold" "$@"
done
finish
