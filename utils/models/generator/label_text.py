"""Sets of labels as text and back: what a label generator writes, `joy, love`, always in one order."""

import re
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UserError

SEPARATOR = ", "
# What is written for no label: the first that is not a label itself.
NONE_WORDS = ("none", "no label", "nothing", "no label fits")


@dataclass(frozen=True)
class LabelText:
    """How sets of labels are written: `order` holds the `labels` as they follow each other, `none` is the empty set.

    A comma or backslash in a name is written with a backslash before it, so that each text stands for one set.
    """

    labels: list[str]
    order: list[str]
    none: str

    @property
    def columns(self):
        """Column in the task's label vectors of each label, in the written order."""
        return [self.labels.index(name) for name in self.order]

    @property
    def words(self):
        """The labels as they are written, in the written order."""
        return [re.sub(r"([,\\])", r"\\\1", name) for name in self.order]

    def write(self, row):
        """Text of one 0/1 row `[L]`."""
        return SEPARATOR.join(word for word, column in zip(self.words, self.columns) if row[column]) or self.none

    def read(self, text):
        """What a text says: `(0/1 row [L], words that are no label)`.

        Exact for what `write` gives. In other texts case, order, and blanks, quotes and full stops around a name do not
        matter, and the word for no label beside a label says nothing.
        """
        exact = dict(zip(self.words, self.columns))
        loose = {}
        for word, column in exact.items():
            loose[_loosen(word)] = None if _loosen(word) in loose else column  # two names that differ in case only
        row, unknown = np.zeros(len(self.labels), dtype=np.int8), []
        for word in re.findall(r"(?:\\.|[^,\n])+", text):
            word = word.strip()
            column = exact.get(word, loose.get(_loosen(word)))
            if column is not None:
                row[column] = 1
            elif word and _loosen(word) != _loosen(self.none):
                unknown.append(word)
        return row, unknown


def _loosen(word):
    return word.strip(" \t\r.;:'\"`*-").casefold()


def choose_label_text(labels, order, train_positives):
    """The `LabelText` for the names `labels`.

    Args:
        order: `columns` (as in the data), `frequent_first` or `rare_first`.
        train_positives: training rows of each label, `[L]`.

    Raises:
        UserError: for a name that could not be read back.
    """
    for name in labels:
        if name != name.strip() or not name or re.search(r"[\r\n]", name):
            raise UserError(
                f"the label {name!r} cannot be written in an answer: take line breaks and blanks at its ends out"
            )
    by_frequency = [labels[i] for i in np.argsort(-np.asarray(train_positives), kind="stable")]
    orders = {"columns": list(labels), "frequent_first": by_frequency, "rare_first": by_frequency[::-1]}
    taken = {_loosen(name) for name in labels}
    none = next((word for word in NONE_WORDS if word not in taken), None)
    if none is None:
        raise UserError(f"{', '.join(NONE_WORDS)} are all labels, no word is left for no label: rename one")
    return LabelText(list(labels), orders[order], none)
