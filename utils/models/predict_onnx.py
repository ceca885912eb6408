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
        self.single_label = self.task.get("single_label", False)  # then there are no thresholds
        self.thresholds = [] if self.single_label else [thresholds["thresholds"][x] for x in self.task["labels"]]
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))  # cuts long texts, pads short ones
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one for each core
        file, devices = Path(folder, "model.onnx"), ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(file, options, providers=devices)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Probability of each label, `[N, L]`; the texts are predicted at once."""
        if self.task["normalize_urls"]:
            texts = [re.sub(r"https?://\S+|www\.\S+", "http", text, flags=re.IGNORECASE) for text in texts]
        if self.task["normalize_users"]:
            texts = [re.sub(r"(?<!\w)@\w+", "@user", text) for text in texts]
        rows = self.tokenizer.encode_batch(texts)
        inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
        logits = self.session.run(None, {name: np.array(ids, dtype=np.int64) for name, ids in inputs.items()})[0]
        logits = logits.astype(np.float64)
        if self.single_label:
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            return exponentials / exponentials.sum(axis=1, keepdims=True)
        return 1 / (1 + np.exp(-logits))

    def labels(self, row: np.ndarray) -> list[str]:
        """The labels of a text with these probabilities, `[L]`: those that reach their threshold, or the likeliest."""
        names = self.task["labels"]
        if self.single_label:
            return [names[row.argmax()]]
        return [name for name, probability, least in zip(names, row, self.thresholds) if probability >= least]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    model = OnnxModel(Path(__file__).parent)
    for text, row in zip(sys.argv[1:], model.probabilities(sys.argv[1:])):
        probabilities = dict(zip(model.task["labels"], row.tolist()))
        print(json.dumps({"text": text, "labels": model.labels(row), "probabilities": probabilities}))
