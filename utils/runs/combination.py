"""How several runs become one: their weights, the thresholds for their mean, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from utils.core.errors import UserError
from utils.doctor.drift import Reference
from utils.runs.folder import load_results
from utils.scoring.calibration import fit_platt
from utils.scoring.notes import choice_note
from utils.scoring.scores import AT_HALF, TUNED, by_name, with_interval
from utils.scoring.thresholds import ThresholdRule, Thresholds, thresholds_are_for

if TYPE_CHECKING:
    from utils.runs.ensembles import Ensemble, Together
    from utils.runs.finished import FinishedRun


@dataclass
class Combination:
    """How runs become one submission.

    Args:
        weights: of the runs in the mean of their probabilities, `[R]`.
        thresholds: for that mean, with curves that calibrate it.
        text: what to say of it on the terminal.
        reference: what the rows that are predicted are compared with; None where the runs do not know.
    """

    weights: np.ndarray
    thresholds: Thresholds
    text: str
    reference: Reference | None


@dataclass
class Wanted:
    """What the flags say of how runs become one.

    Args:
        weights: a number for each run, `["fit"]`, or None for equal weights.
        strategy: how to choose thresholds; None: as the runs were trained.
        shrinkage: likewise.
        best_by: the score that they are chosen for; likewise.
        as_probabilities: whether probabilities are submitted, so that their scores are shown.
        calibrate: whether these are calibrated.
    """

    weights: list[str] | None = None
    strategy: str | None = None
    shrinkage: float | None = None
    best_by: str | None = None
    as_probabilities: bool = False
    calibrate: bool = False


def combine_runs(folders: list[str], labels: list[str], wanted: Wanted) -> Combination:
    """Decide how runs become one.

    One run keeps its thresholds, unless others are asked for; for several they are chosen on the weighted mean of their
    validation predictions.

    Args:
        folders: of R finished runs.
        labels: names of the labels, `[L]`.
        wanted: what the flags say.

    Raises:
        UserError: for runs that do not go together, or weights that do not fit them.
    """
    stored = [Thresholds.load(folder, labels) for folder in folders]
    rule, weights = stored[0].rule, wanted.weights
    if any(one.rule.gives_one_label for one in stored):
        _check_one_label(folders[0], wanted)
    reference = Reference.load(folders[0], labels)
    refit = wanted.shrinkage is not None or wanted.strategy not in (None, rule.strategy)
    if len(stored) == 1 and not refit and wanted.best_by in (None, rule.best_by):
        if wanted.calibrate and stored[0].calibration is None:
            raise UserError(f"--calibrate: {folders[0]} has no curves in its thresholds.json: train it again")
        text = f"thresholds of {folders[0]} ({_how(rule)})"
        if rule.gives_one_label:
            text = "each text is given its likeliest label"
        if wanted.as_probabilities:
            text = f"{_stored_scores(folders[0], rule)}\n\n{text}"
        return Combination(np.ones(1), stored[0], text, reference)
    rule = _common_rule(folders, [thresholds.rule for thresholds in stored], wanted)

    from utils.runs.ensembles import gather_members, join_members
    from utils.runs.finished import read_run

    runs = [read_run(folder) for folder in folders]
    ensemble = join_members(gather_members(runs))
    given = None if weights in (None, ["fit"]) else np.array([float(weight) for weight in weights])
    ways, note = _fit_or_equal(ensemble, rule) if weights == ["fit"] else ([_as_given(ensemble, given, rule)], "")
    rows, member_weights = ensemble.chosen_on, ways[-1].weights
    mean, truth = ensemble.mean(member_weights)[rows], ensemble.truth[rows]
    thresholds = replace(rule.fit(mean, truth), calibration=fit_platt(mean, truth) if wanted.calibrate else None)
    if reference is not None:
        reference.rows, reference.given = len(mean), thresholds.apply(mean).sum(axis=0)
    run_weights = _run_weights(ensemble, member_weights, given, len(runs))
    text = _describe(runs, ensemble, ways, rule, note, wanted.as_probabilities)
    return Combination(run_weights, thresholds, text, reference)


def _check_one_label(folder: str, wanted: Wanted) -> None:
    """Refuse thresholds for a run whose texts have one label each.

    Raises:
        UserError: for flags of thresholds.
    """
    for flag, given in {"threshold_strategy": wanted.strategy, "threshold_shrinkage": wanted.shrinkage}.items():
        if given is not None:
            raise UserError(f"--{flag}: {folder} gives each text its likeliest label, without thresholds: leave it out")


def _how(rule: ThresholdRule) -> str:
    """How thresholds were chosen, in words."""
    score = by_name(thresholds_are_for(rule.best_by))
    return rule.strategy if rule.is_fixed or score.name == "f1_macro" else f"{rule.strategy}, for {score.title}"


def _stored_scores(folder: str, rule: ThresholdRule) -> str:
    """The scores of a run's probabilities, and of its predictions, from its results."""
    metrics = {name.removeprefix("eval_"): value for name, value in load_results(folder).items()}
    of_labels = by_name(thresholds_are_for(rule.best_by))
    kind, how = (AT_HALF, "" if rule.gives_one_label else " at 0.5") if rule.is_fixed else (TUNED, " tuned")
    names = {"macro ROC-AUC": "roc_auc_macro", "mAP": "map", f"{of_labels.title}{how}": f"{of_labels.name}{kind}"}
    scores = ", ".join(f"{title} {with_interval(metrics, name)}" for title, name in names.items())
    return f"on {metrics['samples']:,} validation rows: {scores}"


def _common_rule(folders: list[str], rules: list[ThresholdRule], wanted: Wanted) -> ThresholdRule:
    """The rule that all runs have, or what the flags say instead.

    Raises:
        UserError: where the runs have several and no flag says which.
    """
    strategy, shrinkage = wanted.strategy, wanted.shrinkage
    scores = {wanted.best_by or rule.best_by for rule in rules}
    if len(scores) > 1:
        raise UserError(f"the runs {', '.join(folders)} were trained for different scores: pass --best_by")
    strategies = {strategy or rule.strategy for rule in rules}
    if len(strategies) > 1:
        raise UserError(f"the runs {', '.join(folders)} choose thresholds differently: pass --threshold_strategy")
    chosen = strategies.pop()
    if shrinkage is not None or any(rule.strategy != chosen for rule in rules):
        return ThresholdRule(chosen, shrinkage, scores.pop())
    if len({rule.shrinkage for rule in rules}) > 1:
        raise UserError(f"the runs {', '.join(folders)} shrink thresholds differently: pass --threshold_shrinkage")
    return replace(rules[0], best_by=scores.pop())


def _as_given(ensemble: Ensemble, given: np.ndarray | None, rule: ThresholdRule) -> Together:
    """The mean with the weights `[R]` of the runs, or with equal ones of the members.

    The folds of one training are one member, as each has held out other rows; they share its weight.
    """
    from utils.runs.ensembles import weigh

    members = ensemble.members
    each = np.ones(len(members)) if given is None else [given[member.runs].sum() for member in members]
    return weigh(ensemble, rule, each)


def _fit_or_equal(ensemble: Ensemble, rule: ThresholdRule) -> tuple[list[Together], str]:
    """Fitted and equal weights, the ones to take last, and what to say of them.

    Fitted weights are taken if they gain more than one standard error on rows that they were not fitted on.
    """
    from utils.runs.ensembles import PARTITIONS, gain, is_beyond_noise, weigh, weigh_by_fit

    fitted = weigh_by_fit(ensemble, rule)
    equal = weigh(ensemble, rule, np.ones(len(ensemble.members)), PARTITIONS)
    equal.name = "together, equal"
    more = gain(ensemble, fitted, [equal], rule)
    each = ", ".join(f"{weight:.2f}" for weight in fitted.weights)
    what = f"fitted ones ({each}) score {more.value:+.3f} against equal ones, standard error {more.standard_error:.3f}"
    note = "Together, fitted: each row predicted with weights and thresholds that were fitted without it.\n"
    if is_beyond_noise(more):
        return [equal, fitted], f"{note}Weights: fitted, as {what}."
    return [fitted, equal], f"{note}Weights: equal, as {what}: not more by more than noise."


def _run_weights(ensemble: Ensemble, member_weights: np.ndarray, given: np.ndarray | None, runs: int) -> np.ndarray:
    """Weights of the runs with sum 1, `[R]`.

    Args:
        ensemble: whose members consist of the runs.
        member_weights: `[K]`; the runs of a member share its weight, unless each was given its own.
        given: weights of the runs `[R]`, or None.
        runs: R.
    """
    if given is not None:
        return given / given.sum()
    weights = np.empty(runs)
    for member, weight in zip(ensemble.members, member_weights):
        weights[member.runs] = weight / len(member.runs)
    return weights / weights.sum()


def _describe(
    runs: list[FinishedRun],
    ensemble: Ensemble,
    ways: list[Together],
    rule: ThresholdRule,
    note: str,
    as_probabilities: bool,
) -> str:
    """What the terminal says of a combination: scores of several runs, and what thresholds were chosen on.

    Args:
        runs: that are combined.
        ensemble: of them.
        ways: of averaging, the one that is taken last.
        rule: how thresholds are chosen.
        note: on the weights.
        as_probabilities: whether their scores are shown too.
    """
    from utils.runs.ensembles import averaging_note, score_table

    text = ""
    if len(runs) > 1 or as_probabilities:
        notes = [note, choice_note([run.results for run in runs]), averaging_note(ensemble, runs, rule)]
        text = "\n".join([score_table(ensemble, rule, ways, as_probabilities), *filter(None, notes)])
    what = "averaged probabilities" if ensemble.comparable else "probabilities of the runs that held out each"
    if len(ensemble.members) == 1:
        what = "probabilities"
    if rule.gives_one_label:
        return f"{text}\n\neach text is given its likeliest label".strip()
    text += f"\n\nthresholds chosen on the {what} of {ensemble.chosen_on.sum():,} validation rows ({_how(rule)})"
    return text.strip()
