"""Several runs as one: the weighted mean of their probabilities, and what it is worth against each of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import format_table
from utils.data.splits import near_duplicate_groups
from utils.data.text import near_duplicate_key
from utils.runs.finished import FinishedRun
from utils.runs.groups import describe_runs, group_key, is_fold, join_folds, joint_name, short_names
from utils.scoring.bootstrap import RESAMPLES, SEED, interval, plain_scores, resample, resample_probabilities
from utils.scoring.differences import FACTOR, Comparison, Contender, Difference, factor_of
from utils.scoring.predictions import Predictions
from utils.scoring.scores import Score, by_name
from utils.scoring.thresholds import ThresholdRule, cross_fitting_parts, thresholds_are_for

# Shown beside a score of 0/1 predictions where probabilities are submitted.
SCORES_OF_PROBABILITIES = ("roc_auc_macro", "map")

# Picks of the greedy selection; a weight is a multiple of 1 / PICKS.
PICKS = 20
# From so many rows on that all members held out, these alone are used where others were not held out by all.
ENOUGH_ROWS = 100
# Fitted weights are taken if they gain more than so many standard errors. Of three runs, weights fitted on 400 rows and
# always taken lose 0.24 points on new rows if the runs are equal, and gain 1.74 if one is 10 points worse. Taken beyond
# 0, 1 and 2 standard errors it is -0.12, -0.01, 0.00 and 1.74, 1.47, 1.08: see benchmarks.ensemble_weights.
ERRORS_TO_BEAT = 1.0
# Partitions that fitted and equal weights are cross-fitted over to compare them. Weights are fitted for each part of
# each, which takes seconds, so they are fewer than for a single score.
PARTITIONS = 3


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
        """0/1 predictions `[P, N, L]` of some of its rows, given as booleans: at 0.5 and, unless thresholds are fixed,
        with thresholds cross-fitted over all its rows."""
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
            other_truth = truth.setdefault(row_id, held.truth[i])
            if not same or not np.array_equal(other_truth, held.truth[i], equal_nan=True):
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


def _score(name: str, truth: np.ndarray, probabilities: np.ndarray, rule: ThresholdRule) -> float:
    """A score of probabilities `[N, L]`, with thresholds that `rule` chooses on them where it is of 0/1 predictions."""
    score = by_name(name)
    return score.compute(
        truth, probabilities if score.of_probabilities else rule.fit(probabilities, truth).apply(probabilities)
    )


def fit_weights(probabilities: np.ndarray, truth: np.ndarray, rule: ThresholdRule) -> np.ndarray:
    """Choose weights of members by greedy selection with replacement: the member that helps most is picked again and
    again (Caruana et al. 2004, Ensemble selection from libraries of models, section 2).

    Args:
        probabilities: of the members, `[K, N, L]`.
        truth: 0/1 array `[N, L]`.
        rule: how the thresholds are chosen, and the score that is to be high.

    Returns:
        weights with sum 1, `[K]`.
    """
    picked = np.zeros(len(probabilities))
    total = np.zeros(probabilities.shape[1:])
    for pick in range(1, PICKS + 1):
        means = (total + probabilities) / pick
        best = int(np.argmax([_score(rule.best_by, truth, mean, rule) for mean in means]))
        picked[best] += 1
        total += probabilities[best]
    return picked / PICKS


@dataclass
class Together:
    """What averaging the members gives, on the rows that thresholds are chosen on.

    Args:
        name: how they are weighed, as the table shows it.
        weights: `[K]`, with sum 1, for new rows.
        decisions: 0/1 predictions `[P, N, L]` of the rows: at 0.5 and, unless thresholds are fixed, tuned; each row
            with thresholds, and weights if they are fitted, that were chosen without it.
        probabilities: of the rows, `[P, N, L]`, with P = 1 where weights are not fitted.
    """

    name: str
    weights: np.ndarray
    decisions: list[np.ndarray]
    probabilities: np.ndarray

    def figure(self, score: Score, truth: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
        """A score of the last of the decisions, or of the probabilities.

        Args:
            score: which.
            truth: `[N, L]`.
            groups: of rows that are drawn together, `[N]`.

        Returns:
            `(value, values)`: on all rows, and on resamples of them, `[B]`.
        """
        return figure_of(score, truth, self.probabilities if score.of_probabilities else self.decisions[-1], groups)


def weigh(
    ensemble: Ensemble, rule: ThresholdRule, weights: Sequence[float] | np.ndarray, partitions: int | None = None
) -> Together:
    """The mean with weights that are not chosen on the rows.

    Args:
        ensemble: of K members.
        rule: how thresholds are chosen.
        weights: `[K]`.
        partitions: as `ThresholdRule.cross_fit` takes them.
    """
    rows, shares = ensemble.chosen_on, np.asarray(weights, dtype=float) / np.sum(weights)
    probabilities = ensemble.mean(shares)[rows]
    decisions = [rule.decide_unfitted(probabilities)[None]]
    if not rule.is_fixed:
        decisions.append(rule.cross_fit(probabilities, ensemble.truth[rows], ensemble.groups[rows], partitions))
    return Together("together", shares, decisions, probabilities[None])


def weigh_by_fit(ensemble: Ensemble, rule: ThresholdRule) -> Together:
    """The mean with weights fitted on the rows that every member held out, and what the whole procedure is worth.

    It is cross-fitted over the partitions that `weigh` has with as many of them, so that the two differ in the weights.

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
    at_half, tuned = (np.empty((PARTITIONS, *truth.shape), dtype=np.int8) for _ in range(2))
    out_of_sample = np.empty((PARTITIONS, *truth.shape))
    for partition in range(PARTITIONS):
        parts = cross_fitting_parts(truth, ensemble.groups[rows], partition)
        for part in np.unique(parts):
            out = parts == part
            weights = fit_weights(probabilities[:, ~out], truth[~out], rule)
            mean = ensemble.mean(weights)[rows]
            out_of_sample[partition, out] = mean[out]
            at_half[partition, out] = rule.decide_unfitted(mean[out])
            tuned[partition, out] = rule.fit(mean[~out], truth[~out]).apply(mean[out])
    decisions = [at_half] if rule.is_fixed else [at_half, tuned]
    return Together("together, fitted", fit_weights(probabilities, truth, rule), decisions, out_of_sample)


def figure_of(score: Score, truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """`(value, values)` of a score, mean over P sets: on all rows, and on resamples of them, `[B]`.

    Args:
        score: of 0/1 predictions or of probabilities.
        truth: 0/1 array `[N, L]`.
        predicted: `[P, N, L]`, what the score is of.
        groups: `[N]`, equal for rows that are drawn together.
    """
    if not score.of_probabilities:
        drawn = resample(truth, predicted, RESAMPLES, SEED, groups)
        return plain_scores(truth, predicted)[score.name], drawn[score.name]
    each = [resample_probabilities(truth, one, RESAMPLES, SEED, groups)[score.name] for one in predicted]
    return float(np.mean([score.compute(truth, one) for one in predicted])), np.mean(each, axis=0)


def gain(ensemble: Ensemble, one: Together, others: list[Together], rule: ThresholdRule) -> Difference:
    """What one way of averaging scores more than others do on average, on the rows that thresholds are chosen on.

    A paired bootstrap over the rows, near-duplicates drawn together.

    Args:
        ensemble: with N such rows.
        one: the one.
        others: to compare with.
        rule: how thresholds were chosen on these rows, and for which score.
    """
    truth, groups = ensemble.truth[ensemble.chosen_on], ensemble.groups[ensemble.chosen_on]
    score = by_name(rule.best_by)
    factor = FACTOR if score.of_probabilities else factor_of(rule)

    def contender(ways: list[Together]) -> Contender:
        values, drawn = zip(*(way.figure(score, truth, groups) for way in ways))
        return Contender(float(np.mean(values)), np.array(drawn), factor=factor)

    return Comparison([contender([one]), contender(others)]).difference(0, 1)


def is_beyond_noise(more: Difference) -> bool:
    """Whether a gain is more than one standard error: see `ERRORS_TO_BEAT`."""
    return more.value > ERRORS_TO_BEAT * more.standard_error


def score_table(ensemble: Ensemble, rule: ThresholdRule, ways: list[Together], as_probabilities: bool = False) -> str:
    """What each member scores alone and what several together do, on the rows that all of them held out.

    Where these are too few, each member on its own rows, and none together.

    Args:
        ensemble: of the members.
        rule: how thresholds are chosen.
        ways: of averaging, the one that is taken last.
        as_probabilities: whether probabilities are submitted, so that their scores are shown too.

    Returns:
        the table, and below it what its rows are, as one text.
    """
    of_labels = by_name(thresholds_are_for(rule.best_by))
    more = (
        [by_name(name) for name in SCORES_OF_PROBABILITIES]
        if as_probabilities or rule.best_by != of_labels.name
        else []
    )
    kinds = ["at 0.5", "tuned (cross-fitted)"][: 1 if rule.is_fixed else 2]
    if rule.gives_one_label:
        kinds = [""]
    columns = [*(score.title for score in more), *(f"{of_labels.title} {kind}".strip() for kind in kinds)]

    def score_cells(
        truth: np.ndarray, decisions: list[np.ndarray], probabilities: np.ndarray, groups: np.ndarray
    ) -> list[str]:
        predicted = [(score, probabilities) for score in more] + [(of_labels, decided) for decided in decisions]
        figures = [figure_of(score, truth, what, groups) for score, what in predicted]
        return ["{:.3f} [{:.3f}, {:.3f}]".format(value, *interval(drawn, value)) for value, drawn in figures]

    common = {row_id for row_id, everybody in zip(ensemble.ids, ensemble.chosen_on) if everybody}
    rows = []
    for member, weight in zip(ensemble.members, ways[-1].weights):
        there = np.array([row_id in common for row_id in member.held.ids])
        held = member.held
        arrays = (held.truth[there], member.decisions(there, rule), held.probabilities[None, there])
        cells = score_cells(*arrays, held.near_duplicates[there])
        rows.append([member.name, f"{weight:.2f}", int(there.sum()), *cells])
    if len(rows) > 1 and ensemble.comparable:
        truth, groups = ensemble.truth[ensemble.chosen_on], ensemble.groups[ensemble.chosen_on]
        for way in ways:
            rows.append([way.name, "1.00", len(truth), *score_cells(truth, way.decisions, way.probabilities, groups)])
    text = format_table(["run", "weight", "validation rows", *columns], rows)
    text += "\n\nIn brackets: 95 % bootstrap interval over the rows; the luck of the training seed is not in it."
    if not ensemble.comparable:
        text += f"\nEach on its own rows, and none together: {ensemble.common.sum()} rows were held out by all."
    elif not ensemble.common.all():
        text += f"\nOn the {ensemble.common.sum():,} rows that all of them held out, of {len(ensemble.ids):,}."
    return text


def averaging_note(ensemble: Ensemble, runs: list[FinishedRun], rule: ThresholdRule) -> str:
    """What the table does not show where folds are averaged; empty where there are none.

    A row is predicted by the one model of a training that did not see it, a new row by the mean of all its folds. Other
    seeds of the same folds say what a mean of as many models is worth; what one of more is, is not known.

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
        return f"{note}: three seeds of MiniLM on tweets 0.01 more than one; how much here, several seeds would show."
    by = seed_gain(ensemble, seeds, rule)
    return f"{note}. {len(seeds)} seeds together score {by.value:+.3f} [{by.low:+.3f}, {by.high:+.3f}] against one."


def seed_gain(ensemble: Ensemble, seeds: list[int], rule: ThresholdRule) -> Difference:
    """What the mean of several seeds scores more than one of them does on average, on the rows that all held out.

    Args:
        ensemble: of the members.
        seeds: numbers of the members that differ in the seed alone.
        rule: how thresholds are chosen.
    """

    def together(members: list[int]) -> Together:
        return weigh(ensemble, rule, np.isin(np.arange(len(ensemble.members)), members))

    return gain(ensemble, together(seeds), [together([seed]) for seed in seeds], rule)
