#!/usr/bin/env bash
# The project's three experiments: an encoder in full, a decoder with a head, a decoder that writes labels; QLoRA both.
# ACCELERATE_CONFIG=accelerate_configs/single_gpu.yaml sweeps/three_experiments.sh TRAIN_FILE VALIDATION_FILE OUTPUT_DIR [FLAG ...]
# ENCODER, HEAD_DECODER and LABEL_DECODER name other models; the flags go to all three.
set -uo pipefail
source "$(dirname "$0")/common.sh"
data=(--train_file "$1" --validation_file "$2") output=$3
shift 3
train run_classifier.py "$output/encoder" --config recipes/roberta_base.yaml \
    --model_name_or_path "${ENCODER:-roberta-base}" "${data[@]}" "$@"
train run_classifier.py "$output/decoder_head" --config recipes/qwen2.5_7b_qlora_head.yaml \
    --model_name_or_path "${HEAD_DECODER:-Qwen/Qwen2.5-7B}" "${data[@]}" "$@"
train run_sft_labels.py "$output/decoder_labels" --config recipes/qwen3_0.6b_qlora_labels.yaml \
    --model_name_or_path "${LABEL_DECODER:-Qwen/Qwen3-0.6B}" "${data[@]}" "$@"
finish
