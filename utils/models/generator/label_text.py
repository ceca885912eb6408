"""Sets of labels as text and back: a label generator writes `joy, love`, always in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UserError

SEPARATOR = ", "
# What is written for no label: the first of these that is not a label itself.
NONE_WORDS = ("none", "no label", "nothing", "no label fits")


@dataclass(frozen=True)
class LabelText:
    """How sets of labels are written.

    A comma or backslash in a name is written with a backslash before it, so that each text means exactly one set.

    Args:
        labels: names of the L labels, in the order of the task.
        order: the same names in the order in which they are written.
        none: what is written for no label.
    """

    labels: list[str]
    order: list[str]
    none: str

    @property
    def columns(self) -> list[int]:
        """Place of each label in `labels`, in the written order."""
        return [self.labels.index(name) for name in self.order]

    @property
    def words(self) -> list[str]:
        """How each label is written, in the written order."""
        return [re.sub(r"([,\\])", r"\\\1", name) for name in self.order]

    def write(self, row: Sequence[int] | np.ndarray) -> str:
        """Text of one 0/1 row `[L]`."""
        return SEPARATOR.join(word for word, column in zip(self.words, self.columns) if row[column]) or self.none

    def read(self, text: str) -> tuple[np.ndarray, list[str]]:
        """Read a text: `(0/1 row [L], words that are no label)`.

        Reads back exactly what `write` gives. Other texts are read leniently: case, order, and spaces, quotes and
        punctuation around a name do not matter, and the word for no label is ignored beside a label.
        """
        exact = dict(zip(self.words, self.columns))
        loose = {}
        for word, column in exact.items():
            loose[_loosen(word)] = (
                None if _loosen(word) in loose else column
            )  # None: two names that differ only in case
        row, unknown = np.zeros(len(self.labels), dtype=np.int8), []
        for word in re.findall(r"(?:\\.|[^,\n])+", text):
            word = word.strip()
            column = exact.get(word, loose.get(_loosen(word)))
            if column is not None:
                row[column] = 1
            elif word and _loosen(word) != _loosen(self.none):
                unknown.append(word)
        return row, unknown


def _loosen(word: str) -> str:
    """A name without case and without what may surround it in a free answer."""
    return word.strip(" \t\r.;:'\"`*-").casefold()


def choose_label_text(labels: Sequence[str], order: str, train_positives: Sequence[int]) -> LabelText:
    """Choose the order of the labels and the word for no label.

    Args:
        labels: names of the L labels.
        order: `columns` (as in the data), `frequent_first` or `rare_first`.
        train_positives: training rows of each label, `[L]`.

    Raises:
        UserError: for a name that could not be read back, and if all words for no label are labels.
    """
    for name in labels:
        if name != name.strip() or not name or re.search(r"[\r\n]", name):
            raise UserError(
                f"the label {name!r} cannot be written in an answer: remove line breaks, and spaces at its ends"
            )
    by_frequency = [labels[i] for i in np.argsort(-np.asarray(train_positives), kind="stable")]
    orders = {"columns": list(labels), "frequent_first": by_frequency, "rare_first": by_frequency[::-1]}
    taken = {_loosen(name) for name in labels}
    none = next((word for word in NONE_WORDS if word not in taken), None)
    if none is None:
        raise UserError(f'{", ".join(NONE_WORDS)} are all labels, so no word is left for "no label": rename one')
    return LabelText(list(labels), orders[order], none)
