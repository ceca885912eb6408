"""A classification head that export.py has written as ONNX: predicts as the run did, without its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from utils.core.errors import UserError
from utils.data.task import Task
from utils.models.encoding import longest_first
from utils.scoring.predictions import Predictions

if TYPE_CHECKING:  # onnxruntime is an extra
    from utils.models.predict_onnx import OnnxModel

MODEL_FILE, TOKENIZER_FILE = "model.onnx", "tokenizer.json"


class OnnxClassifier:
    """What an exported model needs to stand where a run stands: it predicts, and is not trained.

    Args:
        onnx: the model, as the file beside it loads it for programs without torch.
        task: labels and text options.
        folder: of the exported model.
    """

    # What a prediction needs from the folder.
    files: ClassVar[tuple[str, ...]] = (MODEL_FILE, TOKENIZER_FILE)

    def __init__(self, onnx: OnnxModel, task: Task, folder: str):
        self.onnx, self.task, self.name, self.max_length = onnx, task, folder, task.max_length
        self.model: Any = None  # no module of torch

    @classmethod
    def load(cls, folder: str, arguments: dict[str, Any], task: Task) -> OnnxClassifier:
        """The model of a folder that export.py has written, on as many threads as torch has.

        Args:
            folder: of the exported model.
            arguments: its run_args.json.
            task: its task.json.

        Raises:
            UserError: if onnxruntime is not installed.
        """
        try:
            from utils.models.predict_onnx import OnnxModel
        except ImportError as error:
            raise UserError(
                f"{folder} is an exported model: pip install -r requirements-export.txt to predict with it"
            ) from error
        return cls(OnnxModel(folder, torch.get_num_threads()), task, folder)

    def predict(self, texts: list[str], batch_size: int) -> Predictions:
        """Probabilities for texts, in their order; each process of a launch predicts them all.

        Args:
            texts: `[N]`, normalised as the task says.
            batch_size: texts predicted at a time.
        """
        probabilities = np.empty((len(texts), len(self.task.labels)))
        order = longest_first([len(text) for text in texts])
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            probabilities[rows] = self.onnx.probabilities([texts[row] for row in rows])
        return Predictions(self.task.labels, list(map(str, range(len(texts)))), texts, probabilities=probabilities)

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than the model reads."""
        return bool(self.onnx.tokenizer.encode(text).overflowing)
