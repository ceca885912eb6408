"""The bars that a finding has to clear: intervals and tests, so that chance alone is not called wrong.

A share is compared by its exact interval, a mean by the normal one, a ranking by what it is when labels are dealt out
anew. The level is high, and the higher the more labels are looked at (Bonferroni), so that a sound run is called wrong
in about one of a hundred checks at most. Where a difference must also be large enough to matter, the whole interval has
to lie beyond what does not matter: with many rows a small difference is certain, and still small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri

from utils.scoring.scores import known_cells

LEVEL = 0.99
SHUFFLES, SEED = 300, 0
# Rows from which on a sample of them is looked at: intervals are narrow by then.
MOST_ROWS = 10_000


def each_of(number: int, level: float = LEVEL) -> float:
    """Level at which each of several checks is made, so that all of them together have `level`."""
    return 1 - (1 - level) / max(1, number)


def share_interval(count: int, rows: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson, 1934); from 0 to 1 where there are no rows.

    Args:
        count: rows that are counted.
        rows: all of them.
        level: of the interval.
    """
    if rows == 0:
        return 0.0, 1.0
    tail, others = (1 - level) / 2, rows - count
    low = betaincinv(count, others + 1, tail) if count else 0.0
    high = betaincinv(count + 1, others, 1 - tail) if others else 1.0
    return float(low), float(high)


def more_than(count: int, rows: int, share: float, level: float = LEVEL) -> bool:
    """Whether more than a share of all rows are like the counted ones, as far as these rows say.

    Args:
        count: rows that are counted.
        rows: all of those looked at.
        share: that must be exceeded.
        level: at which it must.
    """
    return share_interval(count, rows, level)[0] > share


def rates_differ(
    here: tuple[int, int], there: tuple[int, int], level: float = LEVEL, factor: float = 1.0, points: float = 0.0
) -> bool:
    """Whether two shares differ by more than a factor and a number of points, in either direction.

    Args:
        here: `(count, rows)`.
        there: the same of other rows.
        level: of both intervals, which must lie apart.
        factor: how much higher the lower end of one must be than the upper end of the other.
        points: the same as a difference of shares.
    """
    (low, high), (other_low, other_high) = share_interval(*here, level), share_interval(*there, level)
    return low > max(factor * other_high, other_high + points) or other_low > max(factor * high, high + points)


def ratio_interval(here: tuple[int, int], there: tuple[int, int], level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share divided by another of other rows (Katz and others, Obtaining confidence intervals for the
    risk ratio in cohort studies, Biometrics 1978); without bounds where fewer than 5 rows are counted on a side.

    It is narrower than the two intervals of the shares together, which lie apart only where the difference is sure
    twice over.

    Args:
        here: `(count, rows)`.
        there: the same of the rows that are divided by.
        level: of the interval.
    """
    (count, rows), (other, others) = here, there
    if min(count, other) < 5:
        return 0.0, np.inf
    error = np.sqrt(1 / count - 1 / rows + 1 / other - 1 / others)
    reach = float(ndtri((1 + level) / 2) * error)
    middle = np.log(count / rows) - np.log(other / others)
    return float(np.exp(middle - reach)), float(np.exp(middle + reach))


@dataclass(frozen=True)
class Mean:
    """The mean of a figure over some rows.

    Args:
        mean: of them.
        deviation: standard deviation.
        rows: how many.
    """

    mean: float
    deviation: float
    rows: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """The mean of values `[N]`."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(float(np.mean(values)) if len(values) else 0.0, spread, len(values))

    def __str__(self) -> str:
        """With half of its 95 % interval."""
        return f"{self.mean:.3f} ± {ndtri(0.975) * self.deviation / max(1, self.rows) ** 0.5:.3f}"

    def difference(self, other: Mean, level: float = LEVEL) -> tuple[float, float]:
        """Interval of this mean less another of other rows; without bounds where either has fewer than two rows."""
        if min(self.rows, other.rows) < 2:
            return -np.inf, np.inf
        error = np.sqrt(self.deviation**2 / self.rows + other.deviation**2 / other.rows)
        reach = float(ndtri((1 + level) / 2) * error)
        return self.mean - other.mean - reach, self.mean - other.mean + reach


@dataclass(frozen=True)
class Ranking:
    """How well probabilities rank the rows of each label, and what chance makes of it.

    Args:
        judged: numbers of the labels with rows of both classes, `[K]`.
        auc: ROC-AUC of these, `[K]`.
        by_chance: the same with labels dealt out to the rows anew, `[SHUFFLES, K]`.
    """

    judged: np.ndarray
    auc: np.ndarray
    by_chance: np.ndarray

    @property
    def mean_by_chance(self) -> float:
        """What chance keeps the mean over the labels below, at LEVEL."""
        return float(np.quantile(self.by_chance.mean(axis=1), LEVEL)) if len(self.judged) else 1.0

    def each_by_chance(self, level: float = LEVEL) -> np.ndarray:
        """What chance keeps each label below, at a level: `[K]`.

        From the deviation of the shuffles, as 300 of them do not reach as far as the level of one label among many.
        """
        return np.minimum(1.0, 0.5 + float(ndtri(level)) * self.by_chance.std(axis=0))


def rank(truth: np.ndarray, probabilities: np.ndarray) -> Ranking:
    """ROC-AUC of each label, and of the same labels dealt out to other rows, whole rows at a time.

    Args:
        truth: `[N, L]`, 0, 1 or NaN.
        probabilities: `[N, L]`.
    """
    from scipy.stats import rankdata  # scipy.stats takes half a second to import, which predictions can do without

    true, known = count_rows(truth)
    judged = np.flatnonzero((true > 0) & (true < known))
    rng = np.random.default_rng(SEED)
    orders = [np.arange(len(truth)), *(rng.permutation(len(truth)) for _ in range(SHUFFLES))]
    auc = np.empty((len(orders), len(judged)))
    for column, label in enumerate(judged):
        rows = known_cells(truth[:, label])
        yes, ranks = truth[:, label] == 1, rankdata(probabilities[rows, label])
        positives, negatives = true[label], known[label] - true[label]
        for number, order in enumerate(orders):
            hits = ranks[yes[order[rows[order]]]]  # of the known rows, as they are dealt out
            auc[number, column] = (hits.sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return Ranking(judged, auc[0], auc[1:])


def count_rows(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have each label, and rows in which it is known: `[L]` both, given truth `[N, L]`, 0, 1 or NaN."""
    return (truth == 1).sum(axis=0), known_cells(truth).sum(axis=0)


def some_rows(rows: int, most: int = MOST_ROWS) -> np.ndarray:
    """Numbers of the rows to look at, in order: all, or `most` drawn at random, the same each time."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(SEED).choice(rows, most, replace=False))
