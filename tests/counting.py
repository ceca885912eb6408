"""A `Predictor` without a model, whose answers can be told beforehand."""

import time

import numpy as np

from utils.data.task import Task
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule, Thresholds
from utils.serving.predictor import Predictor, Served


class CountsWords:
    """An approach without a model: the probability of a label grows with how often its name is in the text.

    It fails with a text that says so, as models and libraries do: "(NaN)" and "(crash)". `seen` are its batches.
    """

    max_length = 1000
    pause = 0.0  # seconds of a batch

    def __init__(self, task, gives=()):
        self.task, self.gives, self.seen = task, gives, []

    def predict(self, texts, batch_size):
        self.seen.append(texts)
        time.sleep(self.pause)
        if any("(crash)" in text for text in texts):
            raise RuntimeError("a fault of a library")
        found = np.array([[1 - 0.5 ** (1 + text.count(label)) for label in self.task.labels] for text in texts])
        found[["(NaN)" in text for text in texts]] = np.nan
        decoded = np.array([[label in self.gives for label in self.task.labels]] * len(texts)) if self.gives else None
        return Predictions(self.task.labels, list(map(str, range(len(texts)))), probabilities=found, decoded=decoded)

    def is_cut(self, text):
        return len(text.split()) > self.max_length


def counting(*labels, thresholds=(0.6,), **task):
    """A `Predictor` of one run for each threshold; the last one answers with the first label."""
    task = Task(list(labels), ["text"], list(labels), **task)
    runs = [
        Served(f"run{i}", CountsWords(task, labels[:1] if i == len(thresholds) - 1 else ()), rule_of(value, task))
        for i, value in enumerate(thresholds)
    ]
    return Predictor(runs, task.labels)


def rule_of(value, task):
    if task.single_label:
        return Thresholds(np.full(len(task.labels), np.nan), ThresholdRule("argmax"))
    return Thresholds(np.full(len(task.labels), value), ThresholdRule("per_label"))
