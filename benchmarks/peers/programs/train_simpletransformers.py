"""simpletransformers' MultiLabelClassificationModel, as its documentation shows it."""

import numpy as np
import pandas as pd
from settings import read_settings
from simpletransformers.classification import MultiLabelClassificationArgs, MultiLabelClassificationModel

settings, train, validation = read_settings()
model = MultiLabelClassificationModel(
    "bert",
    settings["model"],
    num_labels=len(settings["label_names"]),
    use_cuda=False,
    args=MultiLabelClassificationArgs(
        num_train_epochs=settings["epochs"],
        train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        manual_seed=settings["seed"],
        output_dir=settings["folder"],
        cache_dir=f"{settings['folder']}/cache",
        overwrite_output_dir=True,
    ),
)
model.train_model(pd.DataFrame({"text": train["texts"], "labels": train["labels"]}))
_, probabilities = model.predict(validation["texts"])
np.save(settings["output"], np.asarray(probabilities))
