"""Training and prediction speed of run_classifier.py's Trainer, relative to two baselines measured in the same run.

    python -m benchmarks.encoder_throughput --train_file train.csv --validation_file validation.csv --epochs 1

Three ways to fine-tune the same encoder on the same rows, each starting from the same weights:
  stock  stock Trainer: texts padded to 128 tokens, fp32
  ours   MultiLabelTrainer: length-grouped batches, padded to their longest text, bf16 where it is faster than fp32
  bare   a plain PyTorch loop with length buckets and bf16 where it is faster: what the hardware can reach
After training, each predicts the validation rows; macro-F1 at 0.5 shows that the speed does not cost quality.
A warm-up of 5 steps and one prediction of 256 rows is not counted.
"""

import argparse
import json
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, default_data_collator, set_seed

from utils.core.arguments import DataArguments, ModelArguments
from utils.core.files import write_json
from utils.core.tables import format_table
from utils.data.training_data import read_training_data
from utils.models.classifier import Classifier
from utils.models.encoding import longest_first
from utils.models.precision import bf16_is_fast
from utils.scoring.bootstrap import RESAMPLES, SEED, interval, resample
from utils.scoring.scores import with_interval
from utils.training.arguments import TaskTrainingArguments
from utils.training.batches import SameLengthSampler
from utils.training.classifier import MultiLabelTrainer
from utils.training.losses import MultiLabelLoss, bce, positive_weights

BATCH = 32
EVAL_BATCH = 128
WARM_UP_ROWS = 5 * BATCH
STOCK_LENGTH = 128


def options(args, folder, **more):
    """Trainer's arguments for `stock` and `ours`."""
    return {
        "output_dir": folder,
        "learning_rate": args.learning_rate,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "per_device_train_batch_size": BATCH,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": args.seed,
    } | more


def stock(args, classifier, weights, train, validation, epochs, folder):
    """Train and predict with the stock Trainer: every text padded to 128 tokens, fp32."""

    def pad(examples):
        return examples.rows.map(
            lambda batch: classifier.tokenizer(
                batch["text"], truncation=True, max_length=STOCK_LENGTH, padding="max_length"
            ),
            batched=True,
            remove_columns=["id", "text"],
        )

    train_encoded, validation_encoded = pad(train), pad(validation)
    trainer = Trainer(
        model=classifier.model,
        args=TrainingArguments(
            **options(args, folder, num_train_epochs=epochs, per_device_eval_batch_size=EVAL_BATCH),
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=train_encoded,
        data_collator=default_data_collator,
        compute_loss_func=MultiLabelLoss("bce", weights, 0, 0, 0, 0),
    )
    start = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    logits = trainer.predict(validation_encoded).predictions
    return trained - start, time.perf_counter() - trained, logits > 0


def ours(args, classifier, weights, train, validation, epochs, folder):
    """Train and predict as run_classifier.py and make_submission.py do."""
    train_encoded, validation_encoded = classifier.encode(train), classifier.encode(validation)
    training_args = TaskTrainingArguments(
        **options(args, folder, num_train_epochs=epochs, load_best_model_at_end=False)
    )
    loss = MultiLabelLoss("bce", weights, 0, 0, 0, 0)
    trainer = MultiLabelTrainer(classifier, training_args, train_encoded, validation_encoded, loss)
    start = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    probabilities = trainer.predict_in_order(validation_encoded)
    return trained - start, time.perf_counter() - trained, probabilities >= 0.5


def bare(args, classifier, weights, train, validation, epochs, folder):
    """Train and predict in a plain loop: length buckets, bf16 autocast, fused AdamW, linear schedule."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = bf16_is_fast(device == "cuda")
    model = classifier.model.to(device).train()
    weights = weights.to(device)
    train_encoded, validation_encoded = classifier.encode(train), classifier.encode(validation)
    pad = DataCollatorWithPadding(classifier.tokenizer)
    sampler = SameLengthSampler(train_encoded["length"][:], BATCH, args.seed)
    columns = [name for name in train_encoded.column_names if "length" not in name]
    loader = torch.utils.data.DataLoader(
        train_encoded.select_columns(columns), batch_size=BATCH, sampler=sampler, collate_fn=pad
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01, fused=True)
    steps = len(loader) * epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
    )
    start = time.perf_counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            batch = batch.to(device)
            labels = batch.pop("labels")
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                logits = model(**batch).logits
            bce(logits.float(), labels, weights).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    trained = time.perf_counter()
    model.eval()
    order = longest_first(validation_encoded["length"][:])
    rows = validation_encoded.select(order).select_columns([name for name in columns if name != "labels"])
    predictions = np.empty((len(order), len(weights)), dtype=bool)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        batches = torch.utils.data.DataLoader(rows, batch_size=EVAL_BATCH, collate_fn=pad)
        logits = torch.cat([model(**batch.to(device)).logits.float().cpu() for batch in batches])
    predictions[order] = logits.numpy() > 0
    return trained - start, time.perf_counter() - trained, predictions


def main():
    """Measure the three ways, print a table, and write benchmarks/results/encoder_throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default="embedded-minilm")
    parser.add_argument("--train_file", default="sample_data/train.csv")
    parser.add_argument("--validation_file", default="sample_data/validation.csv")
    parser.add_argument("--max_train_samples", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--results", default="benchmarks/results/encoder_throughput.json")
    args = parser.parse_args()

    data_args = DataArguments(
        train_file=args.train_file, validation_file=args.validation_file, max_train_samples=args.max_train_samples
    )
    train, validation, task = read_training_data(data_args, args.seed)
    truth = validation.labels
    weights = torch.tensor(positive_weights(train.labels, "sqrt", 20), dtype=torch.float32)
    model_args = ModelArguments(model_name_or_path=args.model_name_or_path, dtype="float32")

    rows = {}
    for approach in (stock, ours, bare):
        for warm_up in (True, False):
            set_seed(args.seed)
            classifier = Classifier.new(model_args, task, STOCK_LENGTH)
            few = train.select(range(min(WARM_UP_ROWS, len(train)))) if warm_up else train
            scored = validation.select(range(min(256, len(validation)))) if warm_up else validation
            with tempfile.TemporaryDirectory() as folder:
                seconds, predict_seconds, predictions = approach(
                    args, classifier, weights, few, scored, 1 if warm_up else args.epochs, folder
                )
        score = f1_score(truth, predictions, average="macro", zero_division=0.0)
        drawn = resample(truth, predictions, RESAMPLES, SEED, validation.groups)["f1_macro"]
        rows[approach.__name__] = {
            "train_examples_per_second": len(train) * args.epochs / seconds,
            "predict_examples_per_second": len(validation) / predict_seconds,
            "f1_macro": score,
            **dict(zip(("f1_macro_low", "f1_macro_high"), interval(drawn, score))),
        }
        print(json.dumps({approach.__name__: rows[approach.__name__]}), flush=True)

    speeds = ("train_examples_per_second", "predict_examples_per_second")
    cells = [[k, *(v[speed] for speed in speeds), with_interval(v, "f1_macro")] for k, v in rows.items()]
    print(format_table(["", "train ex/s", "predict ex/s", "macro-F1 at 0.5"], cells))
    ratios = {
        f"{figure} ours/{other}": rows["ours"][f"{figure}_examples_per_second"]
        / rows[other][f"{figure}_examples_per_second"]
        for figure in ("train", "predict")
        for other in ("stock", "bare")
    }
    print(format_table(["ratio", ""], [[name, f"{value:.2f}"] for name, value in ratios.items()]))
    capabilities = [name for name, has in torch.cpu.get_capabilities().items() if has is True and "bf16" in name]
    hardware = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "bf16": capabilities,
    }
    write_json(
        Path(args.results),
        {
            "date": date.today().isoformat(),
            "hardware": hardware,
            "model": args.model_name_or_path,
            "rows": len(train),
            "epochs": args.epochs,
            "mean_tokens": float(np.mean(classifier.encode(train)["length"][:])),
            "figures": rows,
            "ratios": ratios,
        },
    )


if __name__ == "__main__":
    main()
