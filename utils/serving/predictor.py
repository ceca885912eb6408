"""Runs that answer texts one after the other: what the demo page and its HTTP interface ask."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.data.text import normalize
from utils.models.approaches import Approach
from utils.runs.inference import load_run
from utils.runs.submission import load_tasks
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import Thresholds, likeliest

# Parts of a text that are left out in turn: words, or in long texts groups of them.
MOST_PARTS = 40


@dataclass
class Served:
    """A run that answers.

    Args:
        name: of its folder.
        approach: its model.
        thresholds: of the labels in the order of the first run; NaN where each text has one label.
    """

    name: str
    approach: Approach
    thresholds: Thresholds


@dataclass
class Answer:
    """What R runs say of one text.

    Args:
        text: as it was given.
        probabilities: `[R, L]`.
        given: which labels each run gives it, booleans `[R, L]`.
        decoded: of each run what it answered by itself, 0/1 `[L]`, or None for a head.
    """

    text: str
    probabilities: np.ndarray
    given: np.ndarray
    decoded: list[np.ndarray | None]


class Predictor:
    """Runs with the same labels, one or several, that predict texts together.

    One thread at a time predicts: others wait for it.

    Args:
        runs: whose labels are the same.
        labels: their names, `[L]`, in the order of all arrays here.
        batch_size: texts predicted at a time.
    """

    def __init__(self, runs: list[Served], labels: list[str], batch_size: int = 32):
        self.runs, self.labels, self.batch_size = runs, labels, batch_size
        self.task = runs[0].approach.task
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folders: list[str], trust_remote_code: bool = False) -> Predictor:
        """Load finished runs.

        Args:
            folders: of the runs.
            trust_remote_code: whether the code of an adapter's base model may run.

        Raises:
            UserError: for runs that cannot be loaded, or have different labels.
        """
        labels = load_tasks(folders)[0].labels
        names = _short_names(folders)
        runs = [
            Served(name, load_run(folder, trust_remote_code), Thresholds.load(folder, labels))
            for name, folder in zip(names, folders)
        ]
        return cls(runs, labels)

    def predict(self, texts: list[str]) -> list[Answer]:
        """What the runs say of texts.

        Raises:
            UserError: for a run that gives a probability that is not a number.
        """
        predictions = [self._ask(run, texts) for run in self.runs]
        given = [run.thresholds.apply(p.probabilities).astype(bool) for run, p in zip(self.runs, predictions)]
        answers = []
        for i, text in enumerate(texts):
            probabilities = np.stack([found.probabilities[i] for found in predictions])
            decoded = [None if found.decoded is None else found.decoded[i] for found in predictions]
            answers.append(Answer(text, probabilities, np.stack([rows[i] for rows in given]), decoded))
        return answers

    def _ask(self, run: Served, texts: list[str]) -> Predictions:
        task = run.approach.task
        normalized = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
        with self._lock:
            found = run.approach.predict(normalized, self.batch_size).in_order(self.labels)
        if len(found.broken_rows):
            raise UserError(f"{run.name} gives a probability that is NaN: its weights are broken, train it again")
        return found

    def together(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        """`(probabilities, given)` `[L]` of all runs: the mean, and what more than half of them give.

        Where each text has one label it is the likeliest of the mean.
        """
        mean = answer.probabilities.mean(axis=0)
        if self.task.single_label:
            return mean, likeliest(mean[None])[0].astype(bool)
        return mean, answer.given.mean(axis=0) > 0.5

    def names_of_cut(self, text: str) -> list[str]:
        """Names of the runs that do not read a text to its end."""
        with self._lock:
            return [run.name for run in self.runs if run.approach.is_cut(text)]

    def leave_out(self, text: str, run: int, label: str) -> list[tuple[str, float]]:
        """How much each part of a text carries a label: its probability in the whole text less that without the part.

        This is occlusion (Zeiler and Fergus 2014); it takes a prediction for each part. It asks what the model would
        say of the shorter text, and sees no words that only count together.

        Args:
            text: as it was given.
            run: its number.
            label: the label's name.

        Returns:
            `(part, difference)` in the order of the text, which the parts make up again.
        """
        parts = split_parts(text)
        shorter = ["".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        asked = [rest for rest in shorter if rest.strip()]
        column = self.labels.index(label)
        found = self._ask(self.runs[run], [text, *asked]).probabilities[:, column]
        whole, rest = float(found[0]), iter(found[1:].tolist())
        # Without the only word there is nothing to ask about.
        return [(part, whole - next(rest) if less.strip() else 0.0) for part, less in zip(parts, shorter)]


def _short_names(folders: list[str]) -> list[str]:
    """The last part of each folder's path, or as many parts as tell them apart."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return list(folders)


def split_parts(text: str, most: int = MOST_PARTS) -> list[str]:
    """A text in parts that make it up again: words with the space after them, or groups of as many words.

    Args:
        text: any text.
        most: parts.
    """
    words = re.findall(r"\s*\S+\s*", text)
    size = max(1, -(-len(words) // most))
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]


def as_json(predictor: Predictor, answer: Answer) -> dict[str, Any]:
    """An answer as the HTTP interface gives it: labels, probabilities, a generator's own answer.

    Of several runs there is what `Predictor.together` makes of them, and what each run says by its name.
    """
    labels = predictor.labels

    def names(row: np.ndarray) -> list[str]:
        return [label for label, yes in zip(labels, row) if yes]

    def shown(probabilities: np.ndarray, given: np.ndarray) -> dict[str, Any]:
        rounded = {label: round(float(value), 6) for label, value in zip(labels, probabilities)}
        return {"labels": names(given), "probabilities": rounded}

    each = {}
    for i, run in enumerate(predictor.runs):
        each[run.name] = shown(answer.probabilities[i], answer.given[i])
        decoded = answer.decoded[i]
        if decoded is not None:
            each[run.name]["answer"] = names(decoded)
    if len(each) == 1:
        return each.popitem()[1]
    return shown(*predictor.together(answer)) | {"runs": each}
