"""Runs that answer texts one after the other: what the demo page and its HTTP interface ask."""

from __future__ import annotations

import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.data.text import normalize
from utils.models.approaches import Approach
from utils.models.encoding import longest_first
from utils.runs.inference import load_run
from utils.runs.submission import load_tasks
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import Thresholds, likeliest

# Parts of a text that are left out in turn: words, or in long texts groups of them.
MOST_PARTS = 40
UNEXPECTED = "This text could not be predicted, by a fault of the server: its terminal says more."


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

    One thread predicts, a batch after the other in the order in which they were asked for: who asks for one text waits
    for a batch of somebody's thousand texts, and not for all of them.

    Args:
        runs: whose labels are the same.
        labels: their names, `[L]`, in the order of all arrays here.
        batch_size: texts predicted at a time.
    """

    def __init__(self, runs: list[Served], labels: list[str], batch_size: int = 32):
        self.runs, self.labels, self.batch_size = runs, labels, batch_size
        self.task = runs[0].approach.task
        self._thread = ThreadPoolExecutor(1)

    @classmethod
    def load(cls, folders: list[str], named: list[str] | None = None, trust_remote_code: bool = False) -> Predictor:
        """Load finished runs.

        Args:
            folders: of the runs.
            named: as their user has named them, on the Hub for example; None: by their folders.
            trust_remote_code: whether the code of an adapter's base model may run.

        Raises:
            UserError: for runs that cannot be loaded, or have different labels.
        """
        labels = load_tasks(folders)[0].labels
        names = short_names(named or folders)
        runs = [
            Served(name, load_run(folder, trust_remote_code), Thresholds.load(folder, labels))
            for name, folder in zip(names, folders)
        ]
        return cls(runs, labels)

    @property
    def names(self) -> list[str]:
        """The names of the runs."""
        return [run.name for run in self.runs]

    def predict(self, texts: list[str]) -> list[Answer | str]:
        """What the runs say of texts, in their order; of one that cannot be predicted, why, in words for a person."""
        answers: list[Any] = [None] * len(texts)
        order = longest_first([len(text) for text in texts])  # so that a batch has texts of one length
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, answer in zip(rows, self._predict_batch([texts[row] for row in rows])):
                answers[row] = answer
        return answers

    def _predict_batch(self, texts: list[str]) -> list[Answer | str]:
        """As `predict`. Texts that fail together, as by one whose probability is NaN, are predicted one by one."""
        try:
            return list(self._answers(texts))
        except Exception as error:
            if len(texts) > 1:
                return [self._predict_batch([text])[0] for text in texts]
            if isinstance(error, UserError):
                return [str(error)]
            traceback.print_exc()
            return [UNEXPECTED]

    def _answers(self, texts: list[str]) -> list[Answer]:
        predictions = [self._ask(run, texts) for run in self.runs]
        given = [run.thresholds.apply(p.probabilities).astype(bool) for run, p in zip(self.runs, predictions)]
        answers = []
        for i, text in enumerate(texts):
            probabilities = np.stack([found.probabilities[i] for found in predictions])
            decoded = [None if found.decoded is None else found.decoded[i] for found in predictions]
            answers.append(Answer(text, probabilities, np.stack([rows[i] for rows in given]), decoded))
        return answers

    def _ask(self, run: Served, texts: list[str]) -> Predictions:
        """What a run says of texts.

        Raises:
            UserError: where it gives a probability that is not a number.
        """
        task = run.approach.task
        normalized = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
        found = self._thread.submit(run.approach.predict, normalized, self.batch_size).result().in_order(self.labels)
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
        cut = [self._thread.submit(run.approach.is_cut, text) for run in self.runs]
        return [run.name for run, found in zip(self.runs, cut) if found.result()]

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


def short_names(named: list[str]) -> list[str]:
    """The last part of the path of each folder or Hub name, or as many parts as tell them apart."""
    paths = [Path(name).resolve().parts if Path(name).exists() else Path(name).parts for name in named]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return named


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
