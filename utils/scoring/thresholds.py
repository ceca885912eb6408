"""From probabilities to yes and no: thresholds chosen for macro-F1, and scored on rows they have not seen."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import expit

from utils.core.arguments import ARGMAX, ThresholdArguments
from utils.core.files import read_json_object, read_part, write_json
from utils.scoring.calibration import EDGE, finite_logit, gather_at_nodes, platt_coefficients, start_curves

CROSS_FITTING_FOLDS = 10
# Partitions that a cross-fitted score is the mean over, and the rows of all of them together from which on there are
# fewer: the luck of the partition, 0.2 to 0.3 points of macro-F1 on 886 rows for a single one, fades with more rows.
PARTITIONS = 10
PARTITIONED_ROWS = 100_000
# Positive rows at which a label's own threshold weighs as much as what it is shrunk towards.
SHRINKAGE = {"fixed": 0.0, "global": 0.0, "per_label": 20.0, "calibrated": 100.0, ARGMAX: 0.0}
# Logits further out (probabilities under 0.001, over 0.999) count as this when a curve is fitted: no threshold lies
# there, and where the scores are not logistic a few of them turn the curve away from where thresholds lie.
MIDDLE = 7.0
THRESHOLDS_FILE = "thresholds.json"
# Cells [F, L, N] in work at a time: they stay in the processor's cache.
CELLS_AT_A_TIME = 2**17
# Rows from which on `calibrated` thresholds are searched among the highest scores alone, and curves fitted at nodes:
# the same thresholds, in a tenth of the time.
MANY_ROWS = 10_000


@dataclass(frozen=True)
class ThresholdRule:
    """How thresholds are chosen.

    Args:
        strategy: `fixed` (0.5); `global`, one for all labels by exact search; `per_label`, each label's own by exact
            search, shrunk towards the global one; `calibrated`, each label's own shrunk towards the one that its
            calibrated probabilities call for (`calibrated_thresholds`); `argmax`, where each text has one label: the
            likeliest is given, and thresholds are NaN.
        shrinkage: number of positive rows at which a label's own threshold and the other count the same. With n
            positive rows its own counts `n / (n + shrinkage)`, in logits: a threshold read off a few rows is mostly
            noise. None: the default of the strategy.
    """

    strategy: str
    shrinkage: float | None = None

    def __post_init__(self):
        if self.shrinkage is None:
            object.__setattr__(self, "shrinkage", SHRINKAGE[self.strategy])

    @classmethod
    def asked_for(cls, threshold_args: ThresholdArguments) -> ThresholdRule:
        """The rule that the flags name."""
        return cls(threshold_args.threshold_strategy, threshold_args.threshold_shrinkage)

    @property
    def is_fixed(self) -> bool:
        """Whether the rule is the same for any rows: then nothing is chosen, and nothing cross-fitted."""
        return self.strategy in ("fixed", ARGMAX)

    @property
    def gives_one_label(self) -> bool:
        """Whether each row is given exactly one label, the likeliest."""
        return self.strategy == ARGMAX

    def decide_unfitted(self, probabilities: np.ndarray) -> np.ndarray:
        """Predictions that hang on no other rows: at 0.5, or the likeliest label; int8 array `[N, L]`."""
        return likeliest(probabilities) if self.gives_one_label else apply_thresholds(probabilities, 0.5)

    def fit(self, probabilities: np.ndarray, truth: np.ndarray) -> Thresholds:
        """Choose a threshold for each label on all rows, for use on new ones; arrays are `[N, L]`."""
        values = self.fit_on_subsets(probabilities, truth, np.ones((1, len(truth)), dtype=bool))[0]
        return Thresholds(values, self)

    def fit_on_subsets(self, probabilities: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Choose thresholds on several subsets of the rows, which are sorted once for all.

        Args:
            probabilities: `[N, L]`.
            truth: 0/1 array `[N, L]`.
            counted: which rows each of the F fits sees, `[F, N]` of booleans.

        Returns:
            a threshold for each fit and label, `[F, L]`.
        """
        if self.is_fixed:
            return np.full((len(counted), np.shape(truth)[1]), np.nan if self.gives_one_label else 0.5)
        rows = SortedRows(np.asarray(probabilities, dtype=float), np.asarray(truth))
        if self.strategy == "calibrated" and len(np.asarray(truth)) >= MANY_ROWS:
            return self._fit_on_many_rows(rows, counted)
        at_a_time = max(1, CELLS_AT_A_TIME // max(1, np.size(truth)))
        parts = [counted[first : first + at_a_time] for first in range(0, len(counted), at_a_time)]
        return np.concatenate([self._fit_some(rows, part) for part in parts])

    def _fit_some(self, rows: SortedRows, counted: np.ndarray) -> np.ndarray:
        """Thresholds `[F, L]` of the fits that see the rows `counted` `[F, N]`."""
        counted = counted[:, rows.order]
        hits, numbers = rows.counts(counted)
        if self.strategy == "calibrated":
            other = calibrated_thresholds(rows, counted)
        else:
            everywhere = rows.best_global_thresholds(counted, hits, numbers)
            other = np.repeat(everywhere[:, None], len(rows.truth), axis=1)
            if self.strategy == "global":
                return other
        return self._shrink(rows.best_thresholds(counted, hits, numbers)[0], other, hits[..., -1])

    def _shrink(self, own: np.ndarray, other: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """Thresholds between those of labels with so many positive rows and others; all arrays have one shape."""
        weight = np.divide(positives, positives + self.shrinkage, out=np.zeros(own.shape), where=positives > 0)
        own = np.where(weight > 0, own, other)
        between = expit(weight * finite_logit(own) + (1 - weight) * finite_logit(other))
        # One that counts alone stays as it is: with a logit there and back it may not lie between the same two rows.
        return np.where((weight > 0) & (weight < 1), between, own)

    def _fit_on_many_rows(self, rows: SortedRows, counted: np.ndarray) -> np.ndarray:
        """Calibrated thresholds `[F, L]` of the fits that see the rows `counted` `[F, N]`, label by label."""
        logits, _, weights = gathered = gather_at_nodes(rows.logits, rows.truth, rows.order, counted)
        curves = platt_coefficients(*gathered)
        expected = (weights * expit(curves[..., :1] * logits + curves[..., 1:])).sum(axis=2)
        found = np.empty((2, *curves.shape[:2]))
        positives = counted.astype(float) @ np.take_along_axis(rows.truth, np.argsort(rows.order, axis=1), axis=1).T
        for label in range(len(rows.truth)):
            one = rows.of_label(label)
            seen = counted[:, one.order[0]]
            size = len(one.truth[0])
            top = min(size, 2 * int(one.truth.sum()) + 1000)
            fits = (positives[:, label], expected[:, label], curves[:, label])
            while (own_and_other := _thresholds_at_top(one, seen, *fits, top)) is None:
                top = min(size, 4 * top)
            found[:, :, label] = own_and_other
        return self._shrink(found[0], found[1], positives)

    def cross_fit(
        self, probabilities: np.ndarray, truth: np.ndarray, groups: np.ndarray, partitions: int | None = None
    ) -> np.ndarray:
        """Predict each row with thresholds that were chosen without it and its near-duplicates, several times.

        This is what thresholds are worth on new rows. Each time another partition says which rows are held out
        together, so a score that is the mean over the partitions does not hang on one.

        Args:
            probabilities: `[N, L]`.
            truth: 0/1 array `[N, L]`.
            groups: `[N]`, equal for near-duplicates.
            partitions: P; left out: 10, or fewer for more than 10,000 rows.

        Returns:
            int8 array `[P, N, L]`.
        """
        probabilities, truth = np.asarray(probabilities), np.asarray(truth)
        if self.is_fixed:
            return self.decide_unfitted(probabilities)[None]
        if partitions is None:
            partitions = int(np.clip(PARTITIONED_ROWS // max(1, len(truth)), 1, PARTITIONS))
        parts = np.stack([cross_fitting_parts(groups, seed) for seed in range(partitions)])
        counted = parts[:, None, :] != np.arange(CROSS_FITTING_FOLDS)[None, :, None]
        thresholds = self.fit_on_subsets(probabilities, truth, counted.reshape(-1, len(truth)))
        thresholds = thresholds.reshape(partitions, CROSS_FITTING_FOLDS, -1)
        of_rows = np.take_along_axis(thresholds, parts[:, :, None], axis=1)
        return apply_thresholds(probabilities, of_rows)


def cross_fitting_parts(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """The parts that cross-fitting holds out one by one, at random: `[N]`.

    They are not stratified. Parts that all had the same share of a label would tell the thresholds how many true rows
    the part that is held out has, which new rows do not: with 30 labels at 1 to 5 % of 886 rows the score would be 0.2
    points of macro-F1 too good, and is 0.1 too low so (`python -m benchmarks.honesty`).

    Args:
        groups: `[N]`, equal for near-duplicates, which stay together.
        seed: of the partition.
    """
    _, group = np.unique(groups, return_inverse=True)
    part_of_group = np.random.default_rng(seed).permutation(group.max(initial=-1) + 1) % CROSS_FITTING_FOLDS
    return part_of_group[group]


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each label, `values` `[L]`, and the rule that chose them.

    Where each text has one label there are none: `values` are NaN, and the likeliest label is given.
    """

    values: np.ndarray
    rule: ThresholdRule

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Yes where the probability reaches its label's threshold, or is the row's highest: int8 array `[N, L]`."""
        if self.rule.gives_one_label:
            return likeliest(probabilities)
        return apply_thresholds(probabilities, self.values)

    def save(self, folder: str | Path, labels: list[str]) -> None:
        """Write `thresholds.json` into a run folder."""
        values = {} if self.rule.gives_one_label else dict(zip(labels, map(float, self.values)))
        how = {"strategy": self.rule.strategy, "shrinkage": self.rule.shrinkage}
        write_json(Path(folder) / THRESHOLDS_FILE, how | {"thresholds": values})

    @classmethod
    def load(cls, folder: str | Path, labels: list[str]) -> Thresholds:
        """The thresholds of a finished run, in the order of `labels`.

        Raises:
            UserError: for a run that has lost them.
        """

        def read(path: Path) -> Thresholds:
            content = read_json_object(path)
            if content["strategy"] == ARGMAX:
                return cls(np.full(len(labels), np.nan), ThresholdRule(ARGMAX))
            values = np.array([float(content["thresholds"][label]) for label in labels])
            shrinkage = float(content["shrinkage"])
            if not (np.isfinite(values).all() and 0 <= shrinkage < np.inf) or set(content["thresholds"]) != set(labels):
                raise ValueError(f"{path} must hold a threshold for each label")
            if content["strategy"] not in SHRINKAGE:
                raise ValueError(f"{path} names no strategy")
            return cls(values, ThresholdRule(content["strategy"], shrinkage))

        return read_part(folder, THRESHOLDS_FILE, read)


def apply_thresholds(probabilities: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Yes where the probability `[N, L]` reaches its label's threshold, `[L]` or one number: int8 array `[N, L]`."""
    return (np.asarray(probabilities) >= np.asarray(thresholds)).astype(np.int8)


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Yes for the first of the labels with the highest probability `[N, L]` alone: int8 array `[N, L]`."""
    probabilities = np.asarray(probabilities)
    return (np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]).astype(np.int8)


class SortedRows:
    """The rows of each label by falling probability, for searches on many subsets of them.

    Args:
        probabilities: `[N, L]`.
        truth: 0/1 array `[N, L]`.
    """

    def __init__(self, probabilities: np.ndarray, truth: np.ndarray):
        self.order = np.argsort(-probabilities.T, axis=1, kind="stable")  # [L, N], numbers of the rows
        self.scores = np.take_along_axis(probabilities.T, self.order, axis=1)
        self.truth = np.take_along_axis(truth.T, self.order, axis=1).astype(float)
        # Rows with the same score are on the same side: a cut is possible only where the next score is lower.
        self.cuts = np.diff(self.scores, axis=1, append=-np.inf) < 0

    def of_label(self, label: int) -> SortedRows:
        """The rows as they are sorted for one label."""
        one = copy(self)
        for name in ("order", "scores", "truth", "cuts", "logits"):
            setattr(one, name, getattr(self, name)[label : label + 1])
        return one

    @cached_property
    def logits(self) -> np.ndarray:
        """Logits as curves are fitted to them, those far out moved to `MIDDLE`, or to the label's median: `[L, N]`."""
        logits = finite_logit(self.scores)
        median = np.median(logits, axis=1, keepdims=True) if logits.size else 0.0
        return np.clip(logits, np.minimum(-MIDDLE, median), np.maximum(MIDDLE, median))

    @cached_property
    def curves(self) -> np.ndarray:
        """Platt's fits on all rows, `[1 + L, 2]`, from where those on most of them are near."""
        return start_curves(self.logits, self.truth)

    def counts(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(true rows, rows)` from the top down to each one, `[F, L, N]` both, among `counted` `[F, L, N]`."""
        return np.cumsum(counted * self.truth, axis=2), np.cumsum(counted, axis=2)

    def best_thresholds(
        self, counted: np.ndarray, hits: np.ndarray, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The threshold of each label with the highest F1, by exact search.

        Args:
            counted: which rows each fit sees, in the order of the scores: `[F, L, N]` of booleans.
            hits: of `counts`.
            numbers: of `counts`.

        Returns:
            `(thresholds, F1)`, both `[F, L]`; `(nan, 0)` where no row is positive, as no threshold is better than
            another then.
        """
        f1 = _f1(hits, numbers)
        f1[:, ~self.cuts] = -1
        cut = np.argmax(f1, axis=2)[..., None]
        best = np.take_along_axis(f1, cut, axis=2)[..., 0]
        upper = np.take_along_axis(np.broadcast_to(self.scores, f1.shape), cut, axis=2)[..., 0]
        lower = _first_below(cut, counted, np.broadcast_to(self.scores, f1.shape))
        return np.where(hits[..., -1] > 0, _between(upper, lower), np.nan), np.where(hits[..., -1] > 0, best, 0.0)

    def best_global_thresholds(self, counted: np.ndarray, hits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The one threshold for all labels with the highest macro-F1, by exact search over all scores: `[F]`.

        Going down the scores, each one changes the F1 of its own label only, so macro-F1 is a running sum.

        Args:
            counted: as for `best_thresholds`.
            hits: of `counts`.
            numbers: of `counts`.
        """
        fits = len(counted)
        changes = np.diff(_f1(hits, numbers), axis=2, prepend=0.0).reshape(fits, -1)
        # A stable sort keeps equal scores of a label in their order.
        order = np.argsort(-self.scores.ravel(), kind="stable")
        scores = self.scores.ravel()[order]
        macro_f1 = np.cumsum(changes[:, order], axis=1)
        macro_f1[:, np.diff(scores, append=-np.inf) == 0] = -1
        cut = np.argmax(macro_f1, axis=1)[:, None]
        lower = _first_below(cut, counted.reshape(fits, -1)[:, order], np.broadcast_to(scores, macro_f1.shape))
        return np.where(hits[..., -1].any(axis=1), _between(scores[cut[:, 0]], lower), 0.5)


def calibrated_thresholds(rows: SortedRows, counted: np.ndarray) -> np.ndarray:
    """Where the calibrated probability of a label is half of the best F1 that these probabilities promise.

    For known probabilities this is the best threshold: Lipton, Elkan and Narayanaswamy, Optimal thresholding of
    classifiers to maximize F1 measure, ECML PKDD 2014. The best F1 is that of the calibrated probabilities of the
    rows themselves, without their truth: if the k highest are given the label, twice the sum of these over k plus the
    sum of all. A curve with two numbers is much less noisy than a threshold read off the rows, if not exactly right.

    Args:
        rows: N of them.
        counted: which of them each fit sees, `[F, L, N]`, in the order of the scores.

    Returns:
        thresholds `[F, L]`.
    """
    curves = platt_coefficients(rows.logits, rows.truth, counted, start=rows.curves)
    slope, intercept = curves[..., 0], curves[..., 1]
    promised = np.cumsum(counted * expit(slope[..., None] * rows.logits + intercept[..., None]), axis=2)
    numbers = np.cumsum(counted, axis=2)
    best = (2 * promised / np.maximum(numbers + promised[..., -1:], EDGE)).max(axis=2)
    last = numbers.shape[2] - 1
    highest = np.take_along_axis(rows.logits, np.argmax(counted, axis=2).T, axis=1).T
    lowest = np.take_along_axis(rows.logits, last - np.argmax(counted[..., ::-1], axis=2).T, axis=1).T
    return _where_half_of_best(best, curves, lowest, highest, numbers[..., -1] > 0)


def _thresholds_at_top(
    rows: SortedRows, seen: np.ndarray, positives: np.ndarray, expected: np.ndarray, curves: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """A label's own thresholds and its calibrated ones, `[F]` both, looked for among its highest scores.

    Args:
        rows: of one label.
        seen: which rows each fit sees, in the order of the scores: `[F, N]` of booleans.
        positives: how many of them are true, `[F]`.
        expected: sum of their calibrated probabilities, `[F]`.
        curves: slopes and intercepts, `[F, 2]`.
        top: number of rows, from the highest score on, to look at.

    Returns:
        None if one may lie lower.
    """
    truth, logits = rows.truth[0], rows.logits[0]
    slope, intercept = curves[:, :1], curves[:, 1:]
    numbers = np.cumsum(seen[:, :top], axis=1, dtype=float)
    rest = positives[:, None]
    # Own: as `best_thresholds`. Further down no row can do better than if all true ones had been reached already.
    f1 = 2 * np.cumsum(seen[:, :top] * truth[:top], axis=1) / np.maximum(numbers + rest, 1)
    f1[:, ~rows.cuts[0, :top]] = -1
    cut = np.argmax(f1, axis=1)[:, None]
    best = np.take_along_axis(f1, cut, axis=1)
    # Calibrated: as `calibrated_thresholds`. A row whose probability is less than half of the best F1 lowers it.
    probabilities = expit(slope * logits[:top] + intercept)
    promised = 2 * np.cumsum(seen[:, :top] * probabilities, axis=1) / np.maximum(numbers + expected[:, None], EDGE)
    promised = promised.max(axis=1, keepdims=True)
    if top < len(truth):
        own_is_final = (rest == 0) | (
            (best >= 2 * rest / (numbers[:, -1:] + rest)) & (numbers[:, -1:] > np.take_along_axis(numbers, cut, axis=1))
        )
        other_is_final = (slope <= 0) | (probabilities[:, -1:] <= promised / 2)
        if not (own_is_final & other_is_final).all():
            return None
    scores = np.broadcast_to(rows.scores[0, :top], f1.shape)
    upper = np.take_along_axis(scores, cut, axis=1)[:, 0]
    own = np.where(positives > 0, _between(upper, _first_below(cut, seen[:, :top], scores)), np.nan)
    highest = logits[np.argmax(seen, axis=1)]
    lowest = logits[len(truth) - 1 - np.argmax(seen[:, ::-1], axis=1)]
    return own, _where_half_of_best(promised[:, 0], curves, lowest, highest, np.any(seen, axis=1))


def _where_half_of_best(
    best: np.ndarray, curves: np.ndarray, lowest: np.ndarray, highest: np.ndarray, any_row: np.ndarray
) -> np.ndarray:
    """Thresholds where calibrated probabilities are half of the best F1.

    Args:
        best: the F1, `[...]`.
        curves: slopes and intercepts, `[..., 2]`.
        lowest: logit of the lowest row, `[...]`.
        highest: of the highest.
        any_row: whether there are rows; 0.5 where not.
    """
    slope, intercept = curves[..., 0], curves[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = (finite_logit(best / 2) - intercept) / slope
    # Scores that say nothing, or the opposite: then all rows are given the label, which is 1 below the lowest.
    where = np.where(slope > 0, np.clip(where, lowest - 1, highest), lowest - 1)
    return np.where(any_row, expit(where), 0.5)


def _f1(hits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """F1 of a label if the rows down to each one are given it, `[..., N]`; see `SortedRows.counts`."""
    f1 = 2 * hits
    f1 /= np.maximum(numbers + hits[..., -1:], 1)
    return f1


def _first_below(cut: np.ndarray, counted: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The score of the first counted row below a cut, 0 where there is none: `[...]`.

    Args:
        cut: `[..., 1]`.
        counted: `[..., N]` of booleans.
        scores: `[..., N]`, falling.
    """
    below = counted & (np.arange(counted.shape[-1]) > cut)
    first = np.argmax(below, axis=-1)[..., None]
    score = np.take_along_axis(scores, first, axis=-1)[..., 0]
    return np.where(np.take_along_axis(below, first, axis=-1)[..., 0], score, 0.0)


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """A threshold that `upper` reaches and `lower` does not, halfway if floats allow."""
    middle = (upper + lower) / 2
    return np.where(middle > lower, middle, upper)
