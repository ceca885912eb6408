#!/usr/bin/env bash
# Train each LoRA rank with each set of target modules. Alpha is twice the rank: all have the same scaling, 2.
# RANKS="8 16" TARGETS="all-linear q_proj,v_proj" sweeps/lora_rank_targets.sh RECIPE TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [FLAG ...]
set -uo pipefail
source "$(dirname "$0")/common.sh"
usage 4 "$@"
recipe=$1 train=$2 validation=$3 output=$4
for rank in ${RANKS:-8 16 64}; do
    for targets in ${TARGETS:-all-linear q_proj,k_proj,v_proj,o_proj}; do
        train "${SCRIPT:-run_classifier.py}" "$output/r${rank}_${targets//,/+}" --config "$recipe" \
            --train_file "$train" --validation_file "$validation" --use_peft \
            --lora_r "$rank" --lora_alpha $((2 * rank)) --lora_target_modules ${targets//,/ } "${@:5}"
    done
done
finish
