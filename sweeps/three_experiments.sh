#!/usr/bin/env bash
# Run the project's three experiments: an encoder, trained in full; and, with QLoRA, a decoder with a head and a decoder
# that generates labels.
# ACCELERATE_CONFIG=accelerate_configs/single_gpu.yaml sweeps/three_experiments.sh TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [FLAG ...]
# ENCODER, HEAD_DECODER and LABEL_DECODER replace the models, EXPERIMENTS selects some of the three; flags go to all.
set -uo pipefail
source "$(dirname "$0")/common.sh"
usage 3 "$@"
train=$1 validation=$2 output=$3
for experiment in ${EXPERIMENTS:-encoder decoder_head decoder_labels}; do
    case $experiment in
        encoder) script=run_classifier.py recipe=roberta_base model=${ENCODER:-roberta-base} ;;
        decoder_head) script=run_classifier.py recipe=qwen2.5_7b_qlora_head model=${HEAD_DECODER:-Qwen/Qwen2.5-7B} ;;
        decoder_labels) script=run_sft_labels.py recipe=qwen3_0.6b_qlora_labels model=${LABEL_DECODER:-Qwen/Qwen3-0.6B} ;;
        *) echo "error: EXPERIMENTS: there is no $experiment" >&2 && exit 2 ;;
    esac
    train "$script" "$output/$experiment" --config "recipes/$recipe.yaml" --model_name_or_path "$model" \
        --train_file "$train" --validation_file "$validation" "${@:4}"
done
finish
