"""transformers' Trainer as its example run_classification.py sets it up: texts padded to 128 tokens, defaults else."""

import numpy as np
from datasets import Dataset
from settings import read_settings
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

settings, train, validation = read_settings()
set_seed(settings["seed"])
tokenizer = AutoTokenizer.from_pretrained(settings["model"])
model = AutoModelForSequenceClassification.from_pretrained(
    settings["model"], num_labels=len(settings["label_names"]), problem_type="multi_label_classification"
)


def encode(rows):
    """The rows as Trainer takes them, with a cell of 1.0 or 0.0 for each label."""
    labels = [[float(cell) for cell in row] for row in rows["labels"]]
    return Dataset.from_dict({"text": rows["texts"], "label": labels}).map(
        lambda batch: tokenizer(batch["text"], padding="max_length", max_length=128, truncation=True), batched=True
    )


trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=settings["folder"],
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        seed=settings["seed"],
        report_to="none",
    ),
    train_dataset=encode(train),
    data_collator=default_data_collator,
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model()
logits = trainer.predict(encode(validation).remove_columns("label")).predictions
np.save(settings["output"], 1 / (1 + np.exp(-logits)))
