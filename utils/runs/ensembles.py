"""Several runs as one: the weighted mean of their probabilities, and what it is worth against each of them alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import format_table
from utils.data.splits import near_duplicate_groups
from utils.data.text import near_duplicate_key
from utils.runs.finished import FinishedRun
from utils.runs.groups import describe_runs, group_key, is_fold, join_folds, joint_name, short_names
from utils.scoring.bootstrap import plain_scores
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule, apply_thresholds, cross_fitting_parts

# Picks of the greedy selection; a weight is a multiple of 1 / PICKS.
PICKS = 20
# From so many rows on that all members held out, these alone are used where others were not held out by all.
ENOUGH_ROWS = 100


@dataclass
class Member:
    """One run, or the folds of one.

    Args:
        name: as the table shows it.
        runs: which of the runs given, by number.
        has_ids: whether its data has an id column; else ids are row numbers.
        held: predictions of the rows that it held out.
    """

    name: str
    runs: list[int]
    has_ids: bool
    held: Predictions

    def scores(self, rows: np.ndarray, rule: ThresholdRule) -> list[float]:
        """Macro-F1 on some of its rows, given as booleans `[N]`: at 0.5 and, unless thresholds are fixed, with
        thresholds cross-fitted over all its rows."""
        decisions = replace(self.held, decoded=None).decide(rule)
        return [_macro_f1(self.held.truth[rows], decided[:, rows]) for decided in decisions.values()]


@dataclass
class Ensemble:
    """Rows `[N]` that any member held out, with the members' probabilities `[K, N, L]`, NaN where one did not."""

    members: list[Member]
    ids: list[str]
    groups: np.ndarray  # [N], near-duplicates
    truth: np.ndarray  # [N, L]
    probabilities: np.ndarray

    @cached_property
    def common(self) -> np.ndarray:
        """Whether every member held a row out: `[N]`."""
        return ~np.isnan(self.probabilities).any(axis=(0, 2))

    @property
    def comparable(self) -> bool:
        """Whether all rows, or enough of them, were held out by every member."""
        return self.common.all() or self.common.sum() >= ENOUGH_ROWS

    @property
    def chosen_on(self) -> np.ndarray:
        """Rows that thresholds are chosen on: those every member held out, for the mean is of all members on new rows
        too; where there are too few of them all rows, each with the members that held it out: `[N]`."""
        return self.common if self.comparable else np.ones(len(self.ids), dtype=bool)

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """Weighted mean `[N, L]` of the probabilities, of each row over the members that held it out."""
        weights = np.asarray(weights, dtype=float)[:, None, None] * ~np.isnan(self.probabilities)
        return (weights * np.nan_to_num(self.probabilities)).sum(axis=0) / weights.sum(axis=0)


def gather_members(runs: list[FinishedRun]) -> list[Member]:
    """The members that runs are: folds of one training together, others alone."""
    names = short_names([run.folder for run in runs])
    grouped = {}
    for i, run in enumerate(runs):
        seeds = (run.arguments.get("seed"), run.arguments.get("data_seed"))
        key = (group_key(run.arguments), *seeds) if is_fold(run.arguments) else i
        grouped.setdefault(key, []).append(i)
    members = []
    for numbers in grouped.values():
        parts = [runs[i] for i in numbers]
        name = joint_name([names[run.folder] for run in parts])
        if is_fold(parts[0].arguments):
            name += f" ({describe_runs([parts])})"
        has_ids = all(run.task.id_column is not None for run in parts)
        members.append(Member(name, numbers, has_ids, join_folds(parts).in_order(runs[0].task.labels)))
    return members


def join_members(members: list[Member]) -> Ensemble:
    """Bring the rows of members together.

    Raises:
        UserError: for a row that a member holds out twice, or of which two know different labels or texts.
    """
    place, truth, texts = {}, {}, {}
    for member in members:
        held = member.held
        if held.repeats_a_row:
            raise UserError(f"{member.name}: two of these folds held out the same rows: give each fold once")
        for i, row_id in enumerate(held.ids):
            place.setdefault(row_id, len(place))
            text = held.texts[i]
            other = texts.setdefault(row_id, text)
            # Runs may read other columns of a row with an id; a row number may be that of another row.
            same = member.has_ids or near_duplicate_key(text) == near_duplicate_key(other)
            if not same or not np.array_equal(truth.setdefault(row_id, held.truth[i]), held.truth[i]):
                what, do = f'validation row with id "{row_id}"', "average runs of the same data only"
                if not member.has_ids:
                    what, do = f"row {row_id}", "without an id column rows are numbered from 0 in each file: add ids"
                raise UserError(f"the runs {', '.join(one.name for one in members)} disagree about the {what}: {do}")
    ids = sorted(place)
    row_of = {row_id: row for row, row_id in enumerate(ids)}
    probabilities = np.full((len(members), len(ids), len(members[0].held.labels)), np.nan)
    for k, member in enumerate(members):
        probabilities[k, [row_of[row_id] for row_id in member.held.ids]] = member.held.probabilities
    groups = near_duplicate_groups([texts[row_id] for row_id in ids])
    return Ensemble(members, ids, groups, np.array([truth[row_id] for row_id in ids]), probabilities)


def _macro_f1(truth: np.ndarray, predictions: np.ndarray) -> float:
    return plain_scores(truth, predictions)["f1_macro"]


def fit_weights(probabilities: np.ndarray, truth: np.ndarray, rule: ThresholdRule) -> np.ndarray:
    """Choose weights of members by greedy selection with replacement: the member that helps most is picked again and
    again (Caruana et al. 2004, Ensemble selection from libraries of models, section 2).

    Args:
        probabilities: of the members, `[K, N, L]`.
        truth: 0/1 array `[N, L]`.
        rule: how the thresholds are chosen with which macro-F1 is to be high.

    Returns:
        weights with sum 1, `[K]`.
    """
    picked = np.zeros(len(probabilities))
    total = np.zeros(probabilities.shape[1:])
    for pick in range(1, PICKS + 1):
        means = (total + probabilities) / pick
        best = int(np.argmax([_macro_f1(truth, rule.fit(mean, truth).apply(mean)) for mean in means]))
        picked[best] += 1
        total += probabilities[best]
    return picked / PICKS


def fitted_weights(ensemble: Ensemble, rule: ThresholdRule) -> tuple[np.ndarray, list[float]]:
    """Weights fitted on the rows that every member held out, and scores that hold for the whole procedure.

    Returns:
        `(weights [K], [macro-F1 at 0.5, macro-F1 tuned])`; for the scores each row is predicted with weights and
        thresholds that were fitted without it.

    Raises:
        UserError: where the members held out different rows, which could not be weighed against each other.
    """
    if not ensemble.comparable:
        raise UserError(
            f"weights are fitted on rows that every member held out, and these runs share {ensemble.common.sum()}: "
            "train them with the same --validation_file or all folds, or give the weights as numbers"
        )
    rows = ensemble.chosen_on
    probabilities, truth = ensemble.probabilities[:, rows], ensemble.truth[rows]
    parts = cross_fitting_parts(truth, ensemble.groups[rows])
    at_half, tuned = np.empty(truth.shape, dtype=np.int8), np.empty(truth.shape, dtype=np.int8)
    for part in np.unique(parts):
        out = parts == part
        weights = fit_weights(probabilities[:, ~out], truth[~out], rule)
        mean = ensemble.mean(weights)[rows]
        at_half[out] = apply_thresholds(mean[out], 0.5)
        tuned[out] = rule.fit(mean[~out], truth[~out]).apply(mean[out])
    return fit_weights(probabilities, truth, rule), [_macro_f1(truth, at_half), _macro_f1(truth, tuned)]


def score_table(
    ensemble: Ensemble, weights: np.ndarray, rule: ThresholdRule, fitted_scores: list[float] | None = None
) -> str:
    """What each member scores alone and what the ensemble of several does, on the rows that all of them held out.

    Where these are too few, each member on its own rows.

    Args:
        ensemble: of the members.
        weights: of the members, `[K]`.
        rule: how thresholds are chosen.
        fitted_scores: of `fitted_weights`, if the weights were fitted.

    Returns:
        the table, and below it what its rows are, as one text.
    """
    common = {row_id for row_id, everybody in zip(ensemble.ids, ensemble.chosen_on) if everybody}
    rows = []
    for member, weight in zip(ensemble.members, weights):
        there = np.array([row_id in common for row_id in member.held.ids])
        rows.append([member.name, f"{weight / sum(weights):.2f}", int(there.sum()), *member.scores(there, rule)])
    if len(rows) > 1 and ensemble.comparable:
        mean, truth = ensemble.mean(weights)[ensemble.common], ensemble.truth[ensemble.common]
        scores = [_macro_f1(truth, apply_thresholds(mean, 0.5))]
        if not rule.is_fixed:
            scores.append(_macro_f1(truth, rule.cross_fit(mean, truth, ensemble.groups[ensemble.common])))
        scores = scores if fitted_scores is None else fitted_scores[: len(scores)]
        rows.append(["together", "1.00", len(truth), *scores])
    header = ["run", "weight", "validation rows", "macro-F1 at 0.5", "macro-F1 tuned (cross-fitted)"]
    text = format_table(header[: len(rows[0])], rows)
    if fitted_scores is not None:
        text += "\n\nTogether: each row predicted with weights and thresholds that were fitted without it."
    if not ensemble.comparable:
        text += f"\n\nEach on its own rows, and none together: {ensemble.common.sum()} rows were held out by all."
    elif not ensemble.common.all():
        text += f"\n\nOn the {ensemble.common.sum():,} rows that all of them held out, of {len(ensemble.ids):,}."
    return text
