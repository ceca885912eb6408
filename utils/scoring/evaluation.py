"""The one evaluation that every approach goes through: probabilities and truth in, scores and thresholds out."""

from dataclasses import dataclass

import numpy as np

from utils.core.tables import format_table
from utils.scoring.metrics import MultiLabelMetric
from utils.scoring.thresholds import apply_thresholds, cross_fitted_predictions, fit_thresholds

# Scores of a set of 0/1 predictions; the rest of the metric's results depend on the probabilities alone.
SUMMARY = {
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "f1_samples": "samples-F1",
    "jaccard": "Jaccard",
    "exact_match": "exact match",
}
PER_LABEL = ("precision", "recall", "f1", "support")


@dataclass
class Evaluation:
    """Scores of one set of rows.

    `metrics`: the summary scores at threshold 0.5 under their plain names; with chosen thresholds, cross-fitted, with
    `_tuned` behind (absent for strategy `fixed`); of a label generator's own answers with `_decoded` behind; `map` and
    `lrap`; and `precision/x`, `recall/x`, `f1/x`, `support/x`, `threshold/x` of each label x at the thresholds in use,
    cross-fitted too.
    `thresholds`: `[L]`, fitted on all the rows, for use on new ones.
    """

    metrics: dict[str, float]
    thresholds: np.ndarray


def evaluate_probabilities(probabilities, labels, groups, label_names, strategy, shrinkage, decoded=None):
    """Score probabilities `[N, L]` against labels `[N, L]`; `groups` `[N]` numbers the near-duplicates; `decoded`
    `[N, L]` are a label generator's answers.

    The score of thresholds on the rows they were chosen on is not computed anywhere: it is 2 to 3 points too good.
    """
    metric = MultiLabelMetric(keep_in_memory=True)

    def scores(predictions):
        return metric.compute(predictions=predictions, scores=probabilities, references=labels, label_names=label_names)

    thresholds = fit_thresholds(probabilities, labels, strategy, shrinkage)
    results = scores(apply_thresholds(probabilities, 0.5))
    if strategy != "fixed":
        tuned = scores(cross_fitted_predictions(probabilities, labels, groups, strategy, shrinkage))
        per_label = {name: value for name, value in tuned.items() if "/" in name}
        results |= {f"{name}_tuned": tuned[name] for name in SUMMARY} | per_label
    if decoded is not None:
        answers = scores(decoded)
        results |= {f"{name}_decoded": answers[name] for name in SUMMARY}
    results |= {f"threshold/{name}": float(value) for name, value in zip(label_names, thresholds)}
    return Evaluation(results, thresholds)


def summary_table(metrics, markdown=False):
    """Table of the summary scores of a label generator's answers, at 0.5 and tuned, as far as there are any."""
    titles = {"_decoded": "answers", "": "at 0.5", "_tuned": "tuned (cross-fitted)"}
    kinds = [kind for kind in titles if f"f1_macro{kind}" in metrics]
    rows = [[title, *(metrics[f"{name}{kind}"] for kind in kinds)] for name, title in SUMMARY.items()]
    for name, title in (("map", "mAP"), ("lrap", "LRAP")):
        # These depend on the probabilities alone.
        values = {"_decoded": "", "": metrics[name], "_tuned": "same"}
        rows.append([title, *(values[kind] for kind in kinds)])
    return format_table(["score", *(titles[kind] for kind in kinds)], rows, markdown)


def label_table(metrics, label_names, markdown=False):
    """Table of precision, recall, F1, support and threshold of each label, under a line that says at which."""
    columns = (*PER_LABEL, "threshold")
    rows = [[name, *(metrics[f"{column}/{name}"] for column in columns)] for name in label_names]
    how = "tuned thresholds, cross-fitted" if "f1_macro_tuned" in metrics else "threshold 0.5"
    return f"Each label at {how}:\n\n{format_table(['label', *columns], rows, markdown)}"
