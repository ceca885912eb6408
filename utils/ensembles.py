"""Several runs as one: the weighted mean of their probabilities, and what it is worth against each of them alone."""

from dataclasses import dataclass

import numpy as np

from utils.bootstrap import plain_scores
from utils.errors import UserError
from utils.grouping import group_key, is_fold, joint_name, short_names
from utils.splits import assign_parts, near_duplicate_groups
from utils.tables import format_table
from utils.thresholds import CROSS_FITTING_FOLDS, apply_thresholds, cross_fitted_predictions, fit_thresholds

# Picks of the greedy selection; a weight is a multiple of 1 / PICKS.
PICKS = 20


@dataclass
class Member:
    """One run, or the folds of one: probabilities of the rows they held out, `[M, L]`, and the true labels."""

    name: str
    runs: list[int]  # which of the runs given
    ids: list[str]
    texts: list[str] | None
    truth: np.ndarray
    probabilities: np.ndarray


@dataclass
class Ensemble:
    """Rows `[N]` that any member held out, with the members' probabilities `[K, N, L]`, NaN where one did not."""

    members: list[Member]
    ids: list[str]
    groups: np.ndarray  # [N], near-duplicates
    truth: np.ndarray  # [N, L]
    probabilities: np.ndarray

    @property
    def complete(self):
        """Whether every member held out every row."""
        return not np.isnan(self.probabilities).any()

    def mean(self, weights):
        """Weighted mean `[N, L]` of the probabilities, of each row over the members that held it out."""
        weights = np.asarray(weights, dtype=float)[:, None, None] * ~np.isnan(self.probabilities)
        return (weights * np.nan_to_num(self.probabilities)).sum(axis=0) / weights.sum(axis=0)


def gather_members(runs):
    """The members that some runs (`utils.results.FinishedRun`) are: folds of one training together, others alone."""
    names = short_names([run.folder for run in runs])
    grouped = {}
    for i, run in enumerate(runs):
        seeds = (run.arguments.get("seed"), run.arguments.get("data_seed"))
        key = (group_key(run.arguments), *seeds) if is_fold(run.arguments) else i
        grouped.setdefault(key, []).append(i)
    labels = runs[0].task.labels
    members = []
    for numbers in grouped.values():
        parts = [runs[i] for i in numbers]
        columns = [[run.task.labels.index(label) for label in labels] for run in parts]
        members.append(
            Member(
                joint_name([names[run.folder] for run in parts]),
                numbers,
                [row_id for run in parts for row_id in run.ids],
                None if any(run.texts is None for run in parts) else [text for run in parts for text in run.texts],
                np.concatenate([run.truth[:, c] for run, c in zip(parts, columns)]),
                np.concatenate([run.probabilities[:, c] for run, c in zip(parts, columns)]),
            )
        )
    return members


def join_members(members):
    """The `Ensemble` of members.

    Raises:
        UserError: for a row that a member holds out twice, or of which two know different labels.
    """
    place, truth, texts = {}, {}, {}
    for member in members:
        if len(set(member.ids)) < len(member.ids):
            raise UserError(f"{member.name}: two of these folds held out the same rows: give each fold once")
        for i, row_id in enumerate(member.ids):
            place.setdefault(row_id, len(place))
            if not np.array_equal(truth.setdefault(row_id, member.truth[i]), member.truth[i]):
                raise UserError(
                    f"the runs {', '.join(other.name for other in members)} disagree about the labels of the "
                    f'validation row with id "{row_id}": average runs of the same data only'
                )
            texts[row_id] = member.texts[i] if member.texts else texts.get(row_id)
    ids = sorted(place)
    row_of = {row_id: row for row, row_id in enumerate(ids)}
    probabilities = np.full((len(members), len(ids), members[0].truth.shape[1]), np.nan)
    for k, member in enumerate(members):
        probabilities[k, [row_of[row_id] for row_id in member.ids]] = member.probabilities
    known = all(texts[row_id] is not None for row_id in ids)
    groups = near_duplicate_groups([texts[row_id] for row_id in ids]) if known else np.arange(len(ids))
    return Ensemble(members, ids, groups, np.array([truth[row_id] for row_id in ids]), probabilities)


def _macro_f1(truth, predictions):
    return plain_scores(truth, predictions)["f1_macro"]


def fit_weights(probabilities, truth, strategy, shrinkage):
    """Weights `[K]` of members by greedy selection with replacement (Caruana et al. 2004, Ensemble selection from
    libraries of models, section 2): the member that helps most is picked again and again.

    Args:
        probabilities: `[K, N, L]`, of the members.
        truth: 0/1 array `[N, L]`; the goal is macro-F1 with thresholds fitted as `strategy` and `shrinkage` say.
    """
    picked = np.zeros(len(probabilities))
    total = np.zeros(probabilities.shape[1:])
    for pick in range(1, PICKS + 1):
        means = (total + probabilities) / pick
        fitted = [apply_thresholds(mean, fit_thresholds(mean, truth, strategy, shrinkage)) for mean in means]
        best = int(np.argmax([_macro_f1(truth, predictions) for predictions in fitted]))
        picked[best] += 1
        total += probabilities[best]
    return picked / PICKS


def fitted_weights(ensemble, strategy, shrinkage):
    """Weights fitted on all rows, and an honest score of the whole procedure.

    Returns:
        `(weights [K], macro-F1)`; for the score each row is predicted with weights and thresholds that were fitted
        without it.

    Raises:
        UserError: where the members held out different rows, which could not be weighed against each other.
    """
    if not ensemble.complete:
        raise UserError(
            "weights are fitted on rows that every member held out, and these runs held out different rows: train them "
            "with the same --validation_file or all folds, or give the weights as numbers"
        )
    groups, truth = ensemble.groups, ensemble.truth
    parts = assign_parts(truth, groups, np.full(CROSS_FITTING_FOLDS, 1 / CROSS_FITTING_FOLDS), seed=0)
    predictions = np.empty(truth.shape, dtype=np.int8)
    for part in np.unique(parts):
        out = parts == part
        weights = fit_weights(ensemble.probabilities[:, ~out], truth[~out], strategy, shrinkage)
        mean = ensemble.mean(weights)
        thresholds = fit_thresholds(mean[~out], truth[~out], strategy, shrinkage)
        predictions[out] = apply_thresholds(mean[out], thresholds)
    return fit_weights(ensemble.probabilities, truth, strategy, shrinkage), _macro_f1(truth, predictions)


def tuned_score(probabilities, truth, groups, strategy, shrinkage):
    """Macro-F1 `(at 0.5, with cross-fitted thresholds)` of probabilities `[N, L]`."""
    tuned = cross_fitted_predictions(probabilities, truth, groups, strategy, shrinkage)
    return _macro_f1(truth, apply_thresholds(probabilities, 0.5)), _macro_f1(truth, tuned)


def score_table(ensemble, weights, strategy, shrinkage, fitted_score=None):
    """Table of what each member scores alone and what the ensemble of several does, on the rows that were held out."""
    rows = []
    for member, weight, probabilities in zip(ensemble.members, weights, ensemble.probabilities):
        there = ~np.isnan(probabilities).any(axis=1)
        scores = tuned_score(probabilities[there], ensemble.truth[there], ensemble.groups[there], strategy, shrinkage)
        rows.append([member.name, f"{weight / sum(weights):.2f}", int(there.sum()), *scores])
    if len(rows) > 1:
        at_half, tuned = tuned_score(ensemble.mean(weights), ensemble.truth, ensemble.groups, strategy, shrinkage)
        score = tuned if fitted_score is None else fitted_score
        rows.append(["together", "1.00", len(ensemble.ids), at_half, score])
    how = "macro-F1 tuned (cross-fitted" + (")" if fitted_score is None else ", weights too)")
    return format_table(["run", "weight", "validation rows", "macro-F1 at 0.5", how], rows)
