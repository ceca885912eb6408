"""The one evaluation that every approach goes through: probabilities and truth in, scores and thresholds out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.core.tables import format_table
from utils.data.examples import Examples
from utils.scoring.calibration import fit_platt
from utils.scoring.influence import half_width, influence
from utils.scoring.metrics import mean_scores, prediction_scores, probability_scores
from utils.scoring.predictions import Predictions
from utils.scoring.scores import (
    ACCURACY,
    AT_HALF,
    DECODED,
    OF_PREDICTIONS,
    OF_PROBABILITIES,
    PER_LABEL,
    SCORES,
    TUNED,
    half_width_of,
    is_likeliest,
    known_cells,
    left_out,
    left_out_notes,
    summary_rows,
    with_interval,
)
from utils.scoring.thresholds import ThresholdRule, Thresholds


@dataclass
class Evaluation:
    """Predictions of rows whose truth is known, and their scores.

    Args:
        predictions: of the rows.
        metrics: the scores of `utils.scoring.scores`: at threshold 0.5 under their plain names; with chosen thresholds,
            cross-fitted, mean over the partitions, with `_tuned` behind (absent for the strategy `fixed`); of decoded
            labels with `_decoded` behind; and `precision/x`, `recall/x`, `f1/x`, `support/x`, `threshold/x` of each
            label x at the thresholds in use, cross-fitted too; where some cells are not annotated also `annotated/x`,
            the number of rows in which label x is known. Where each text has one label the plain names are those
            of the likeliest label, and there are no thresholds; there, and where there is one label in all, `accuracy`
            is the share of rows that are right. `f1_macro_tuned_half_width` is about half of the 95 % interval of that
            score, and so on for those that the log shows.
        thresholds: fitted on all the rows, for use on new ones.
        decisions: 0/1 predictions `[P, N, L]` that the scores are of, by the suffix of their names.
    """

    predictions: Predictions
    metrics: dict[str, float]
    thresholds: Thresholds
    decisions: dict[str, np.ndarray]

    def save(self, folder: str | Path) -> None:
        """Write thresholds, with curves that calibrate the probabilities, and predictions into a run folder."""
        calibration = None
        if not self.thresholds.rule.gives_one_label:
            calibration = fit_platt(self.predictions.probabilities, self.predictions.truth)
        replace(self.thresholds, calibration=calibration).save(folder, self.predictions.labels)
        self.predictions.save(folder)


class Evaluator:
    """Scores what is predicted for the same examples again and again, as after each epoch.

    Args:
        examples: N rows.
        labels: names of their labels, `[L]`.
        rule: how thresholds are chosen.
    """

    def __init__(self, examples: Examples, labels: list[str], rule: ThresholdRule):
        self.rows, self.rule = Predictions.of_examples(examples, labels, rule.gives_one_label), rule

    def __call__(self, predicted: Predictions | np.ndarray) -> Evaluation:
        """Score probabilities `[N, L]`, or predictions of the examples' texts, in the order of the examples.

        Raises:
            UserError: for a probability that is not a number.
        """
        if isinstance(predicted, np.ndarray):
            predicted = Predictions(self.rows.labels, self.rows.ids, probabilities=predicted)
        if len(predicted.broken_rows):
            raise UserError(
                "the model predicts NaN: lower --learning_rate if it was being trained, else its weights are broken"
            )
        known = {name: getattr(predicted, name) for name in ("probabilities", "decoded")}
        known["figures"] = self.rows.figures | predicted.figures
        return evaluate(replace(self.rows, **known), self.rule)


def evaluate(predictions: Predictions, rule: ThresholdRule) -> Evaluation:
    """Score predictions whose truth is known.

    The score of thresholds on the rows they were chosen on is too good, and computed nowhere: on 886 rows of SemEval by
    1 to 2.5 points, the less the thresholds are shrunk the more. Cross-fitted scores are the mean over several
    partitions of the rows.
    """
    labels, truth, probabilities = predictions.labels, predictions.truth, predictions.probabilities
    decisions = predictions.decide(rule)
    metrics: dict[str, Any] = probability_scores(truth, probabilities)
    metrics |= prediction_scores(truth, decisions[AT_HALF][0], labels)
    results = {kind: mean_scores(truth, decided, labels) for kind, decided in decisions.items() if kind != AT_HALF}
    for kind in (TUNED, DECODED):
        if kind in results:
            metrics |= {f"{score.name}{kind}": results[kind][score.name] for score in OF_PREDICTIONS}
    if TUNED in results:
        metrics |= {name: value for name, value in results[TUNED].items() if "/" in name}
    metrics |= _half_widths(predictions, decisions, rule.best_by)
    thresholds = rule.fit(probabilities, truth)
    if not rule.gives_one_label:
        metrics |= {f"threshold/{label}": float(value) for label, value in zip(labels, thresholds.values)}
    if takes_one_decision(labels, rule):
        metrics |= {f"{ACCURACY}{kind}": metrics[f"exact_match{kind}"] for kind in decisions}
    known = known_cells(truth)
    if not known.all():
        metrics |= {f"annotated/{label}": int(count) for label, count in zip(labels, known.sum(axis=0))}
    return Evaluation(predictions, metrics | left_out(truth) | predictions.figures, thresholds, decisions)


def takes_one_decision(labels: list[str], rule: ThresholdRule) -> bool:
    """Whether a row is right or wrong as a whole: it has one label, or there is one label in all.

    Args:
        labels: names of the labels, `[L]`.
        rule: how probabilities become yes and no.
    """
    return rule.gives_one_label or len(labels) == 1


def _half_widths(predictions: Predictions, decisions: dict[str, np.ndarray], best_by: str) -> dict[str, float]:
    """About half of the 95 % intervals of the scores that the log shows, without resampling.

    Args:
        predictions: N rows.
        decisions: their 0/1 predictions by kind, of which the first of several sets is taken.
        best_by: name of the score that is shown of every kind; of the others that at 0.5 is.
    """
    truth, groups, widths = predictions.truth, predictions.near_duplicates, {}
    for score in SCORES:
        if not (score.logged or score.name == best_by):
            continue
        kinds = decisions if score.name == best_by and not score.of_probabilities else [AT_HALF]
        for kind in kinds:
            predicted = predictions.probabilities if score.of_probabilities else decisions[kind][0]
            name = half_width_of(f"{score.name}{kind}")
            widths[name] = half_width(influence(score, truth, predicted), groups)
    return widths


def metric_names(labels: list[str], rule: ThresholdRule, decoded: bool = False) -> set[str]:
    """Names of the metrics that an evaluation gives.

    Args:
        labels: names of the labels, `[L]`.
        rule: how thresholds are chosen.
        decoded: whether the approach gives labels without a threshold too.
    """
    kinds = {AT_HALF} | (set() if rule.is_fixed else {TUNED}) | ({DECODED} if decoded else set())
    names = {f"{score.name}{kind}" for score in OF_PREDICTIONS for kind in kinds}
    names |= {score.name for score in OF_PROBABILITIES}
    names |= {f"{ACCURACY}{kind}" for kind in kinds if takes_one_decision(labels, rule)}
    columns = PER_LABEL if rule.gives_one_label else (*PER_LABEL, "threshold")
    return names | {f"{name}/{label}" for name in columns for label in labels}


def summary_table(metrics: dict[str, float], markdown: bool = False, first: str = "f1_macro") -> str:
    """Table of the scores: of decoded labels, at 0.5 and tuned, as far as there are any.

    Args:
        metrics: of an `Evaluation`, with the ends of intervals where they are known.
        markdown: for a Markdown file instead of the terminal.
        first: name of the score that comes first.
    """
    table = format_table(*summary_rows(metrics, first), markdown)
    return "\n\n".join([table, *left_out_notes(metrics)])


def label_table(metrics: dict[str, float], labels: list[str], markdown: bool = False) -> str:
    """Table of precision, recall, F1, support and threshold of each label, under a line that says at which.

    Args:
        metrics: of an `Evaluation`, with the ends of intervals where they are known.
        labels: names of the labels, `[L]`.
        markdown: for a Markdown file instead of the terminal.
    """
    annotated = ("annotated",) if f"annotated/{labels[0]}" in metrics else ()
    columns = (*PER_LABEL, *annotated, *(() if is_likeliest(metrics) else ("threshold",)))
    rows = [[label, *(with_interval(metrics, f"{column}/{label}") for column in columns)] for label in labels]
    how = "at tuned thresholds, cross-fitted" if f"f1_macro{TUNED}" in metrics else "at threshold 0.5"
    if is_likeliest(metrics):
        how = "where the likeliest is given"
    return f"Each label {how}:\n\n{format_table(['label', *columns], rows, markdown)}"
