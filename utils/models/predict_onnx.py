"""Labels from an exported model. Needs onnxruntime, tokenizers and numpy, and the files beside it.

python predict_onnx.py "so happy for you 😂" "not again..."
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class OnnxModel:
    """A model that `export.py` has written into a folder."""

    def __init__(self, folder: str | Path, threads: int = 0):
        read = (json.loads(Path(folder, name).read_text(encoding="utf-8")) for name in ("task.json", "thresholds.json"))
        self.task, thresholds = read
        # None where each text has one label: the likeliest is given.
        self.thresholds = [thresholds["thresholds"].get(label) for label in self.task["labels"]]
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))  # cuts long texts, pads short ones
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one for each core
        file, devices = Path(folder, "model.onnx"), ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(file, options, providers=devices)

    def normalize(self, text: str) -> str:
        """A text as the model was trained to read it: links and mentions replaced, where they were."""
        if self.task["normalize_urls"]:
            text = re.sub(r"https?://\S+|www\.\S+", "http", text, flags=re.IGNORECASE)
        return re.sub(r"(?<!\w)@\w+", "@user", text) if self.task["normalize_users"] else text

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Probability of each label, `[N, L]`; the texts are predicted at once."""
        rows = self.tokenizer.encode_batch([self.normalize(text) for text in texts])
        inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        found = self.session.run(None, {name: np.array(ids, dtype=np.int64) for name, ids in inputs.items()})[0]
        logits = np.asarray(found, dtype=np.float64)
        if self.task["single_label"]:
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            return raised / raised.sum(axis=1, keepdims=True)
        raised = np.exp(-np.abs(logits))  # never of a large number
        return np.where(logits >= 0, 1, raised) / (1 + raised)

    def labels(self, probabilities: np.ndarray) -> list[str]:
        """The labels that a text with these probabilities `[L]` is given."""
        if self.task["single_label"]:
            return [self.task["labels"][probabilities.argmax()]]
        named = zip(self.task["labels"], probabilities, self.thresholds)
        return [label for label, probability, threshold in named if probability >= threshold]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    model = OnnxModel(Path(__file__).parent)
    for text, row in zip(sys.argv[1:], model.probabilities(sys.argv[1:])):
        probabilities = dict(zip(model.task["labels"], row.tolist()))
        print(json.dumps({"text": text, "labels": model.labels(row), "probabilities": probabilities}))
