"""From probabilities to yes and no: thresholds chosen for a score, and scored on rows they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from utils.core.arguments import ARGMAX, ThresholdArguments
from utils.core.files import read_json_object, read_part, write_json
from utils.data.splits import assign_parts
from utils.scoring.calibration import MANY_ROWS, Platt, finite_logit, gather_at_nodes, platt_coefficients
from utils.scoring.joint_thresholds import one_threshold, thresholds_by_ascent
from utils.scoring.scores import TUNED, known_cells
from utils.scoring.threshold_search import (
    CELLS_AT_A_TIME,
    SortedRows,
    calibrated_thresholds,
    curves_of_subsets,
    thresholds_at_top,
    where_calibrated,
)

CROSS_FITTING_FOLDS = 10
# Partitions that a cross-fitted score is the mean over, and the rows of all of them together from which on there are
# fewer: the luck of the partition, a standard deviation of 0.2 to 0.3 points of macro-F1 on 886 rows for one and of 0.1
# in the mean of ten (`python -m benchmarks.cross_fitting`), fades with more rows.
PARTITIONS = 10
PARTITIONED_ROWS = 100_000
# Positive rows at which a label's own threshold weighs as much as what it is shrunk towards.
SHRINKAGE = {"fixed": 0.0, "global": 0.0, "per_label": 20.0, "calibrated": 100.0, ARGMAX: 0.0}
THRESHOLDS_FILE = "thresholds.json"
# Scores that thresholds and checkpoints may be chosen for: means over the labels; others, for which the thresholds of
# all labels are chosen together; and scores of probabilities, beside which thresholds are those for macro-F1.
JOINT = ("f1_micro", "f1_samples", "jaccard", "exact_match")
BY_PROBABILITIES = ("roc_auc_macro",)
BEST_BY = ("f1_macro", *JOINT, *BY_PROBABILITIES)


def thresholds_are_for(best_by: str) -> str:
    """Name of the score that thresholds are chosen for: macro-F1, where none plays a part in what all is chosen for."""
    return "f1_macro" if best_by in BY_PROBABILITIES else best_by


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
        best_by: name of the score that everything is chosen for, of `BEST_BY`.
    """

    strategy: str
    shrinkage: float | None = None
    best_by: str = "f1_macro"

    def __post_init__(self):
        if self.shrinkage is None:
            object.__setattr__(self, "shrinkage", SHRINKAGE[self.strategy])

    @classmethod
    def asked_for(cls, threshold_args: ThresholdArguments) -> ThresholdRule:
        """The rule that the flags name."""
        return cls(threshold_args.threshold_strategy, threshold_args.threshold_shrinkage, threshold_args.best_by)

    @property
    def main_score(self) -> str:
        """Name of the score that a run is judged by, with the suffix of the predictions that it is of."""
        suffix = "" if self.is_fixed or self.best_by in BY_PROBABILITIES else TUNED
        return f"{self.best_by}{suffix}"

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
        """Choose a threshold for each label on all rows, for use on new ones; arrays are `[N, L]`.

        Cells whose truth is not known (NaN) do not count.
        """
        values = self.fit_on_subsets(probabilities, truth, np.ones((1, len(truth)), dtype=bool))[0]
        return Thresholds(values, self)

    def fit_on_subsets(self, probabilities: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Choose thresholds on several subsets of the rows, which are sorted once for all.

        Args:
            probabilities: `[N, L]`.
            truth: 0/1 array `[N, L]`, NaN for cells that are not known and count in no fit.
            counted: which rows each of the F fits sees, `[F, N]` of booleans.

        Returns:
            a threshold for each fit and label, `[F, L]`.
        """
        if self.is_fixed:
            return np.full((len(counted), np.shape(truth)[1]), np.nan if self.gives_one_label else 0.5)
        rows = SortedRows(np.asarray(probabilities, dtype=float), np.asarray(truth))
        if self.best_by in JOINT:
            return self._fit_jointly(rows, probabilities, truth, counted)
        # Searched among the highest scores alone, and curves fitted at nodes: the same, in a tenth of the time.
        if self.strategy == "calibrated" and len(np.asarray(truth)) >= MANY_ROWS:
            return self._fit_on_many_rows(rows, counted)
        at_a_time = max(1, CELLS_AT_A_TIME // max(1, np.size(truth)))
        parts = [counted[first : first + at_a_time] for first in range(0, len(counted), at_a_time)]
        return np.concatenate([self._fit_some(rows, part) for part in parts])

    def _fit_some(self, rows: SortedRows, counted: np.ndarray) -> np.ndarray:
        """Thresholds `[F, L]` of the fits that see the rows `counted` `[F, N]`."""
        counted = counted[:, rows.order] & rows.known
        hits, numbers = rows.counts(counted)
        if self.strategy == "calibrated":
            other = calibrated_thresholds(rows, counted)
        else:
            everywhere = rows.best_global_thresholds(counted, hits, numbers)
            other = np.repeat(everywhere[:, None], len(rows.truth), axis=1)
            if self.strategy == "global":
                return other
        return self._shrink(rows.best_thresholds(counted, hits, numbers)[0], other, hits[..., -1])

    def _fit_jointly(
        self, rows: SortedRows, probabilities: np.ndarray, truth: np.ndarray, counted: np.ndarray
    ) -> np.ndarray:
        """Thresholds `[F, L]` for a score that is no mean over the labels: see `utils.scoring.joint_thresholds`.

        Args:
            rows: N of them.
            probabilities: theirs, `[N, L]`.
            truth: 0/1 array `[N, L]`, NaN for cells that are not known.
            counted: which rows each fit sees, `[F, N]` of booleans.
        """
        known, true = known_cells(truth), (np.asarray(truth) == 1).astype(np.int64)
        # A cell that is not known is below any threshold, and so neither right nor wrong.
        scores, logits = np.where(known, probabilities, -1.0), rows.logits_of_rows
        found = np.full((len(counted), true.shape[1]), 0.5)
        curves = curves_of_subsets(rows, counted) if self.strategy == "calibrated" else [None] * len(counted)
        for number, (seen, curve) in enumerate(zip(counted, curves)):
            if not seen.any():
                continue
            some, right = scores[seen], true[seen]
            if curve is None:
                other = np.full(right.shape[1], one_threshold(self.best_by, some, right))
            else:
                calibrated = np.where(known[seen], expit(curve[:, 0] * logits[seen] + curve[:, 1]), -1.0)
                other = where_calibrated(one_threshold(self.best_by, calibrated, right), curve, calibrated)
            if self.strategy != "global":
                own = thresholds_by_ascent(self.best_by, some, right, other)
                other = self._shrink(own, other, right.sum(axis=0))
            found[number] = other
        return found

    def _shrink(self, own: np.ndarray, other: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """Thresholds between those of labels with so many positive rows and others; all arrays have one shape."""
        weight = np.divide(positives, positives + self.shrinkage, out=np.zeros(own.shape), where=positives > 0)
        own = np.where(weight > 0, own, other)
        between = expit(weight * finite_logit(own) + (1 - weight) * finite_logit(other))
        # One that counts alone stays as it is: with a logit there and back it may not lie between the same two rows.
        return np.where((weight > 0) & (weight < 1), between, own)

    def _fit_on_many_rows(self, rows: SortedRows, counted: np.ndarray) -> np.ndarray:
        """Calibrated thresholds `[F, L]` of the fits that see the rows `counted` `[F, N]`, label by label."""
        logits, _, weights = gathered = gather_at_nodes(rows.logits, rows.truth, rows.order, counted, rows.known)
        curves = platt_coefficients(*gathered)
        expected = (weights * expit(curves[..., :1] * logits + curves[..., 1:])).sum(axis=2)
        found = np.empty((2, *curves.shape[:2]))
        positives = counted.astype(float) @ np.take_along_axis(rows.truth, np.argsort(rows.order, axis=1), axis=1).T
        for label in range(len(rows.truth)):
            one = rows.of_label(label)
            seen = counted[:, one.order[0]] & one.known
            size = len(one.truth[0])
            top = min(size, 2 * int(one.truth.sum()) + 1000)
            fits = (positives[:, label], expected[:, label], curves[:, label])
            while (own_and_other := thresholds_at_top(one, seen, *fits, top)) is None:
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
        parts = np.stack([cross_fitting_parts(truth, groups, seed) for seed in range(partitions)])
        return decide_by_parts(self, probabilities, truth, parts)


def decide_by_parts(rule: ThresholdRule, probabilities: np.ndarray, truth: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Predict each row with thresholds that were chosen without its part: int8 array `[P, N, L]`.

    Args:
        rule: how thresholds are chosen.
        probabilities: `[N, L]`.
        truth: 0/1 array `[N, L]`.
        parts: number of each row's part, in P partitions, `[P, N]`.
    """
    counted = parts[:, None, :] != np.arange(CROSS_FITTING_FOLDS)[None, :, None]
    thresholds = rule.fit_on_subsets(probabilities, truth, counted.reshape(-1, len(truth)))
    thresholds = thresholds.reshape(len(parts), CROSS_FITTING_FOLDS, -1)
    return apply_thresholds(probabilities, np.take_along_axis(thresholds, parts[:, :, None], axis=1))


def random_parts(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Parts at random, of as many groups each: `[N]`, given numbers of groups `[N]` that stay together."""
    _, group = np.unique(groups, return_inverse=True)
    part_of_group = np.random.default_rng(seed).permutation(group.max(initial=-1) + 1) % CROSS_FITTING_FOLDS
    return part_of_group[group]


def cross_fitting_parts(truth: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """The parts that cross-fitting holds out one by one: stratified over the labels for every second seed, else random.

    Stratified parts tell the thresholds how many true rows the part that is held out has, which new rows do not: where
    labels are rare that makes the score too good. With random parts it is too low by half as much, as F1 on few rows
    is; half of each comes closest to the truth, within 0.1 points of macro-F1 (`python -m benchmarks.cross_fitting`).

    Args:
        truth: 0/1 array `[N, L]`, NaN for cells that are not known.
        groups: `[N]`, equal for near-duplicates, which stay together.
        seed: of the partition.
    """
    if seed % 2:
        return random_parts(groups, seed)
    return assign_parts(truth, groups, np.full(CROSS_FITTING_FOLDS, 1 / CROSS_FITTING_FOLDS), seed)


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each label, and the rule that chose them.

    Where each text has one label there are none: `values` are NaN, and the likeliest label is given.

    Args:
        values: `[L]`.
        rule: that chose them.
        calibration: curves that make the probabilities say how often they are right, fitted on the same rows; None
            where they are not wanted. The thresholds are those of the probabilities as they are.
    """

    values: np.ndarray
    rule: ThresholdRule
    calibration: Platt | None = None

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Yes where the probability reaches its label's threshold, or is the row's highest: int8 array `[N, L]`."""
        return apply_thresholds(probabilities, self.values)

    def save(self, folder: str | Path, labels: list[str]) -> None:
        """Write `thresholds.json` into a run folder."""
        values = {} if self.rule.gives_one_label else dict(zip(labels, map(float, self.values)))
        how = {"strategy": self.rule.strategy, "shrinkage": self.rule.shrinkage, "best_by": self.rule.best_by}
        content: dict[str, Any] = how | {"thresholds": values}
        if self.calibration is not None:
            curves = zip(labels, self.calibration.slopes, self.calibration.intercepts)
            content["calibration"] = {
                label: {"slope": float(slope), "intercept": float(intercept)} for label, slope, intercept in curves
            }
        write_json(Path(folder) / THRESHOLDS_FILE, content)

    @classmethod
    def load(cls, folder: str | Path, labels: list[str]) -> Thresholds:
        """The thresholds of a finished run, in the order of `labels`.

        Raises:
            UserError: for a run that has lost them.
        """

        def read(path: Path) -> Thresholds:
            content = read_json_object(path)
            best_by = content.get("best_by", "f1_macro")
            if content["strategy"] == ARGMAX and best_by in BEST_BY:
                return cls(np.full(len(labels), np.nan), ThresholdRule(ARGMAX, best_by=best_by))
            values = np.array([float(content["thresholds"][label]) for label in labels])
            shrinkage = float(content["shrinkage"])
            if not (np.isfinite(values).all() and 0 <= shrinkage < np.inf) or set(content["thresholds"]) != set(labels):
                raise ValueError(f"{path} must hold a threshold for each label")
            if content["strategy"] not in SHRINKAGE or best_by not in BEST_BY:
                raise ValueError(f"{path} names no strategy, or a score that there is not")
            curves = content.get("calibration")
            if curves is not None:
                slopes, intercepts = (
                    np.array([float(curves[label][part]) for label in labels]) for part in ("slope", "intercept")
                )
                if not np.isfinite([slopes, intercepts]).all():
                    raise ValueError(f"{path} must hold a curve for each label")
                curves = Platt(slopes, intercepts)
            return cls(values, ThresholdRule(content["strategy"], shrinkage, best_by), curves)

        return read_part(folder, THRESHOLDS_FILE, read)


def apply_thresholds(probabilities: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Yes where the probability `[N, L]` reaches its label's threshold, `[L]` or one number: int8 array `[N, L]`.

    Thresholds of NaN, as `Thresholds` has them where each text has one label, give the likeliest.
    """
    if np.isnan(thresholds).any():
        return likeliest(probabilities)
    return (np.asarray(probabilities) >= np.asarray(thresholds)).astype(np.int8)


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Yes for the first of the labels with the highest probability `[N, L]` alone: int8 array `[N, L]`."""
    probabilities = np.asarray(probabilities)
    return (np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]).astype(np.int8)
