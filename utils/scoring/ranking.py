"""One label's rows by falling probability: average precision and ROC-AUC where each row counts with a weight."""

from __future__ import annotations

import numpy as np


class Ranking:
    """The rows of a label in the order of their probabilities, sorted once for any number of weights.

    Rows with the same probability are together: they are counted to the last of them, as scikit-learn does.

    Args:
        truth: 0/1 array `[N]`, with at least one true row.
        probabilities: `[N]`.
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray):
        self.order = np.argsort(-probabilities)
        self.truth = np.asarray(truth)[self.order] != 0
        self.ends = np.flatnonzero(np.append(np.diff(probabilities[self.order]) != 0, True))  # last row of each tie
        self.tie = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=-1))  # [N], number of a row's tie

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and area under the ROC curve, `[B]` both.

        Args:
            weights: float array `[B, N]`, in the order of the rows as they were given.

        Returns:
            NaN where the rows that count lack one of the classes (average precision: a true one).
        """
        true = np.flatnonzero(self.truth)
        with_true, first = np.unique(self.tie[true], return_index=True)  # G ties: only these change hits
        ordered = weights[:, self.order]
        in_ties = np.add.reduceat(ordered[:, true], first, axis=1)  # [B, G], true rows
        hits = np.cumsum(in_ties, axis=1)
        rows = np.cumsum(ordered, axis=1, out=ordered)
        down_to, before = rows[:, self.ends[with_true]], np.append(-1, self.ends)[with_true]
        number, others = hits[:, -1], rows[:, -1] - hits[:, -1]
        above = np.where(before >= 0, rows[:, before], 0) - (hits - in_ties)  # rows that are not true
        not_below = down_to - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = (in_ties * hits / np.maximum(down_to, 1)).sum(axis=1) / number
            # Half of the rows of the same tie count as below.
            below = others[:, None] - (above + not_below) / 2
            return precision, (in_ties * below).sum(axis=1) / (number * others)

    def influences(self) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of average precision and of the area under the ROC curve by the weight of each row, `[N]` both.

        In the order of the rows as they were given. Those of the area are NaN if all rows are true.
        """
        in_ties = np.add.reduceat(self.truth.astype(float), np.append(0, self.ends[:-1] + 1))
        hits, rows = np.cumsum(in_ties), self.ends + 1.0
        others, number, precision = rows - hits, hits[-1], hits / rows
        score = (in_ties * precision).sum() / number
        # A row counts in the precision of every true row from its own tie on.
        more_true = np.cumsum((in_ties / rows)[::-1])[::-1]
        more_rows = np.cumsum((in_ties * precision / rows)[::-1])[::-1]
        of_precision = self.truth * (precision - score + more_true)[self.tie] - more_rows[self.tie]
        with np.errstate(invalid="ignore", divide="ignore"):
            below = 1 - (others - np.diff(others, prepend=0.0) / 2) / others[-1]  # share of others below a true row
            above = (hits - in_ties / 2) / number  # share of true rows above another
            area = (in_ties * below).sum() / number
            of_area = np.where(self.truth, (below - area)[self.tie] / number, (above - area)[self.tie] / others[-1])
        back = np.empty((2, len(self.order)))
        back[:, self.order] = of_precision / number, of_area
        return back[0], back[1]
