#!/usr/bin/env bash
# Train each learning rate with each pos_weight: the two settings of a classifier that matter most for macro-F1.
# LEARNING_RATES="1e-4 2e-4" POS_WEIGHTS="none sqrt" sweeps/learning_rate_pos_weight.sh RECIPE TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [FLAG ...]
set -uo pipefail
source "$(dirname "$0")/common.sh"
usage 4 "$@"
recipe=$1 train=$2 validation=$3 output=$4
for rate in ${LEARNING_RATES:-1e-5 2e-5 5e-5}; do
    for weight in ${POS_WEIGHTS:-none sqrt balanced}; do
        train run_classifier.py "$output/lr${rate}_$weight" --config "$recipe" \
            --train_file "$train" --validation_file "$validation" --learning_rate "$rate" --pos_weight "$weight" "${@:5}"
    done
done
finish
