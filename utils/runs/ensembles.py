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
from utils.scoring.bootstrap import interval, plain_scores, resample
from utils.scoring.predictions import Predictions
from utils.scoring.thresholds import ThresholdRule, apply_thresholds, cross_fitting_parts

# Picks of the greedy selection; a weight is a multiple of 1 / PICKS.
PICKS = 20
# From so many rows on that all members held out, these alone are used where others were not held out by all.
ENOUGH_ROWS = 100
RESAMPLES = 2000
# Fitted weights are taken if they gain more than so many standard errors.
ERRORS_TO_BEAT = 1.0
# Resamples keep the thresholds. Where these are chosen on the rows too, a difference of scores varies this much more.
CHOSEN_AGAIN = 1.25


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

    def decisions(self, rows: np.ndarray, rule: ThresholdRule) -> list[np.ndarray]:
        """0/1 predictions of some of its rows, given as booleans `[N]`: at 0.5 and, unless thresholds are fixed, with
        thresholds cross-fitted over all its rows."""
        return [decided[:, rows] for decided in replace(self.held, decoded=None).decide(rule).values()]


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
        return np.asarray(~np.isnan(self.probabilities).any(axis=(0, 2)))

    @property
    def comparable(self) -> bool:
        """Whether all rows, or enough of them, were held out by every member."""
        return bool(self.common.all() or self.common.sum() >= ENOUGH_ROWS)

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


@dataclass
class Together:
    """What averaging the members gives, on the rows that thresholds are chosen on.

    Args:
        name: how they are weighed, as the table shows it.
        weights: `[K]`, with sum 1, for new rows.
        decisions: 0/1 predictions `[N, L]` of the rows: at 0.5 and, unless thresholds are fixed, tuned; each row with
            thresholds, and weights if they are fitted, that were chosen without it.
    """

    name: str
    weights: np.ndarray
    decisions: list[np.ndarray]


def weigh(ensemble: Ensemble, rule: ThresholdRule, weights: np.ndarray) -> Together:
    """The mean with weights `[K]` that are not chosen on the rows."""
    rows, weights = ensemble.chosen_on, np.asarray(weights, dtype=float)
    probabilities, groups = ensemble.mean(weights)[rows], ensemble.groups[rows]
    held = Predictions([], [], truth=ensemble.truth[rows], probabilities=probabilities, groups=groups)
    return Together("together", weights / weights.sum(), list(held.decide(rule).values()))


def weigh_by_fit(ensemble: Ensemble, rule: ThresholdRule) -> Together:
    """The mean with weights fitted on the rows that every member held out, and what the whole procedure is worth.

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
    decisions = [at_half] if rule.is_fixed else [at_half, tuned]
    return Together("together, fitted", fit_weights(probabilities, truth, rule), decisions)


@dataclass
class Gain:
    """Macro-F1 that one way to predict has more than another on the same rows.

    Args:
        value: the difference on all rows.
        error: its standard error over the rows.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    value: float
    error: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether it is more than `ERRORS_TO_BEAT` standard errors."""
        return self.value > ERRORS_TO_BEAT * self.error

    def scaled(self, factor: float) -> Gain:
        """The gain times a number above 0."""
        return Gain(*(factor * number for number in (self.value, self.error, self.low, self.high)))

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def gain(truth: np.ndarray, decided: np.ndarray, others: list[np.ndarray]) -> Gain:
    """What predictions score more than others do on average, by a paired bootstrap.

    Args:
        truth: 0/1 array `[N, L]`.
        decided: 0/1 predictions `[N, L]`.
        others: likewise, of each of those to compare with.
    """
    drawn = resample(truth, decided, RESAMPLES, seed=0).f1_macro
    differences = drawn - np.mean([resample(truth, other, RESAMPLES, seed=0).f1_macro for other in others], axis=0)
    value = _macro_f1(truth, decided) - float(np.mean([_macro_f1(truth, other) for other in others]))
    low, high = value + CHOSEN_AGAIN * (np.array(interval(differences)) - differences.mean())
    return Gain(value, CHOSEN_AGAIN * float(differences.std()), float(low), float(high))


def score_table(ensemble: Ensemble, rule: ThresholdRule, ways: list[Together]) -> str:
    """What each member scores alone and what several together do, on the rows that all of them held out.

    Where these are too few, each member on its own rows, and none together.

    Args:
        ensemble: of the members.
        rule: how thresholds are chosen.
        ways: of averaging, the one that is taken last.

    Returns:
        the table, and below it what its rows are, as one text.
    """
    common = {row_id for row_id, everybody in zip(ensemble.ids, ensemble.chosen_on) if everybody}
    rows = []
    for member, weight in zip(ensemble.members, ways[-1].weights):
        there = np.array([row_id in common for row_id in member.held.ids])
        cells = _score_cells(member.held.truth[there], member.decisions(there, rule))
        rows.append([member.name, f"{weight:.2f}", int(there.sum()), *cells])
    if len(rows) > 1 and ensemble.comparable:
        truth = ensemble.truth[ensemble.chosen_on]
        rows += [[way.name, "1.00", len(truth), *_score_cells(truth, way.decisions)] for way in ways]
    header = ["run", "weight", "validation rows", "macro-F1 at 0.5", "macro-F1 tuned (cross-fitted)"]
    text = format_table(header[: len(rows[0])], rows)
    text += "\n\nIn brackets: 95 % bootstrap interval over the rows; the luck of the training seed is not in it."
    if not ensemble.comparable:
        text += f"\nEach on its own rows, and none together: {ensemble.common.sum()} rows were held out by all."
    elif not ensemble.common.all():
        text += f"\nOn the {ensemble.common.sum():,} rows that all of them held out, of {len(ensemble.ids):,}."
    return text


def _score_cells(truth: np.ndarray, decisions: list[np.ndarray]) -> list[str]:
    """Macro-F1 of 0/1 predictions `[N, L]` with its interval, a cell for each."""
    cells = []
    for decided in decisions:
        low, high = interval(resample(truth, decided, RESAMPLES, seed=0).f1_macro)
        cells.append(f"{_macro_f1(truth, decided):.3f} [{low:.3f}, {high:.3f}]")
    return cells


def averaging_note(ensemble: Ensemble, runs: list[FinishedRun], rule: ThresholdRule) -> str:
    """What the table does not show where folds are averaged; empty where there are none.

    A row is predicted by the one model of a training that did not see it, a new row by the mean of all its folds. Other
    seeds of the same folds say what a mean is worth.

    Args:
        ensemble: of the members.
        runs: that the members consist of.
        rule: how thresholds are chosen.
    """
    trainings = {}  # members that differ in the seed alone
    for k, member in enumerate(ensemble.members):
        if len(member.runs) > 1:
            trainings.setdefault(group_key(runs[member.runs[0]].arguments), []).append(k)
    if not trainings:
        return ""
    seeds = max(trainings.values(), key=len)
    folds = min(len(ensemble.members[k].runs) for k in seeds)
    note = (
        f"Folds: each row is predicted by the one model of {folds} that did not see it, while a new row gets the mean "
        f"of all {folds}, which usually scores more"
    )
    if len(seeds) < 2 or not ensemble.comparable:
        return f"{note}: 0.008 for five folds in a simulation; how much here, folds of several seeds would show."
    few, many = len(seeds), len(seeds) * folds
    measured = seed_gain(ensemble, seeds, rule)
    # A mean of n models has 1 / n of the variance that a seed brings, so it gains in proportion to 1 - 1 / n.
    more = measured.scaled((1 / few - 1 / many) / (1 - 1 / few))
    return (
        f"{note}: {few} seeds together score {measured} against one, from which {many} models instead of {few} "
        f"can be expected to gain {more}."
    )


def seed_gain(ensemble: Ensemble, seeds: list[int], rule: ThresholdRule) -> Gain:
    """What the mean of several seeds scores more than one of them does on average, on the rows that all held out.

    Args:
        ensemble: of the members.
        seeds: numbers of the members that differ in the seed alone.
        rule: how thresholds are chosen.
    """

    def decide(members: list[int]) -> np.ndarray:
        return weigh(ensemble, rule, np.isin(np.arange(len(ensemble.members)), members)).decisions[-1]

    return gain(ensemble.truth[ensemble.chosen_on], decide(seeds), [decide([seed]) for seed in seeds])
