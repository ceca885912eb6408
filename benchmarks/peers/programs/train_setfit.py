"""SetFit: contrastive training of the sentence encoder, then a logistic regression for each label.

By default SetFit trains on all pairs of rows, which it is meant to have few of: hundreds of thousands here. It gets two
pairs of each row and epoch instead, one of rows that share a label and one of rows that do not.
"""

import numpy as np
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments
from settings import read_settings

settings, train, validation = read_settings()
model = SetFitModel.from_pretrained(settings["model"], multi_target_strategy="one-vs-rest")
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=settings["folder"],
        batch_size=settings["batch_size"],
        num_epochs=settings["epochs"],
        num_iterations=1,
        seed=settings["seed"],
        report_to="none",
    ),
    train_dataset=Dataset.from_dict({"text": train["texts"], "label": train["labels"]}),
)
trainer.train()
probabilities = model.predict_proba(validation["texts"], as_numpy=True)
np.save(settings["output"], np.asarray(probabilities))
