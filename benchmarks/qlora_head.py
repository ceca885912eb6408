"""Peak memory and tokens/s of QLoRA with a classification head, on a model with real shapes and random weights.

    python -m benchmarks.qlora_head --config CONFIG_FOLDER --tokenizer TOKENIZER_FOLDER --train_file F.csv --layers 2

CONFIG_FOLDER contains a config.json, for example that of Qwen2.5-7B. --layers N keeps only the first N layers, for a
machine on which the whole model does not fit. The benchmark runs run_classifier.py with
recipes/qwen2.5_7b_qlora_head.yaml for 30 steps of micro-batch 8. The figures are written to benchmarks/results/.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
from datetime import date
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import run_classifier
from utils.core.files import write_json

GIB = 2**30


def build_model(config_folder, tokenizer_folder, layers, folder):
    """Save the tokenizer and a model with random bf16 weights to `folder`."""
    config = AutoConfig.from_pretrained(config_folder)
    if layers:
        config.num_hidden_layers = layers
        config.layer_types = config.layer_types[:layers]
    config.dtype = torch.bfloat16
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="2GB")
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)


def main():
    """Build the model, train it, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train_file", default="sample_data/train.csv")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--micro_batch", type=int, default=8)
    parser.add_argument("--results", default="benchmarks/results/qlora_head.json")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        # A separate process builds the model, so its memory is not counted.
        if (child := os.fork()) == 0:
            build_model(args.config, args.tokenizer, args.layers, f"{folder}/model")
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit("building the random model failed")
        config = AutoConfig.from_pretrained(f"{folder}/model")
        run_classifier.main([
            "--config", "recipes/qwen2.5_7b_qlora_head.yaml", "--model_name_or_path", f"{folder}/model",
            "--train_file", args.train_file, "--output_dir", f"{folder}/run", "--max_steps", str(args.steps),
            "--per_device_train_batch_size", str(args.micro_batch), "--gradient_accumulation_steps", "1",
            "--max_eval_samples", "64", "--eval_strategy", "no", "--save_strategy", "no",
            "--load_best_model_at_end", "False", "--include_num_input_tokens_seen", "True", "--disable_tqdm",
        ])  # fmt: skip
        results = json.loads(Path(f"{folder}/run/all_results.json").read_text())
        settings = json.loads(Path(f"{folder}/run/run_args.json").read_text())
        log = json.loads(Path(f"{folder}/run/trainer_state.json").read_text())["log_history"]

    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = next(entry["num_input_tokens_seen"] for entry in reversed(log) if "num_input_tokens_seen" in entry)
    figures = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "optimizer": settings["optim"],
        "steps": args.steps,
        "micro_batch": args.micro_batch,
        "tokens_with_padding": tokens,
        "tokens_per_second": tokens / results["train_runtime"],
        "examples_per_second": results["train_samples_per_second"],
        "peak_memory_gib": peak / GIB,
        "peak_memory_is": "CUDA allocator" if on_gpu else "resident set of the process",
        "unchanged_tensors": results["unchanged_tensors"],
    }
    write_json(args.results, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
