"""Labels that look like mistakes: cells in which a model that has not seen the row is confidently of another mind.

Confident learning (Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR
2021), each label a question of its own: a cell is suspect where the probability of the other answer reaches what it is
on average in the rows that have that answer. Suspects are ranked by self-confidence, the probability of the answer that
the cell holds. Probabilities of validation rows are out of sample, as that asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import pdtrc

from utils.doctor.bars import LEVEL
from utils.doctor.finding import Check, Finding
from utils.scoring.calibration import fit_platt
from utils.scoring.scores import known_cells

SURE = 0.02  # a calibrated probability of the answer that a cell holds, below which the model is sure of the other


@dataclass(frozen=True)
class Suspects:
    """Cells that look like mistakes, the likeliest first.

    Args:
        rows: their rows, `[S]`.
        columns: their labels, `[S]`.
        confidence: the probability that the model gives to what the cell holds, `[S]`.
    """

    rows: np.ndarray
    columns: np.ndarray
    confidence: np.ndarray


def find_suspects(truth: np.ndarray, probabilities: np.ndarray) -> Suspects:
    """Cells that look like mistakes.

    Args:
        truth: `[N, L]`, 0, 1 or NaN.
        probabilities: `[N, L]`, of a model that has not seen the rows.
    """
    true, false, other = truth == 1, truth == 0, 1 - probabilities
    # What the probability of each answer is on average where it is true.
    yes = (probabilities * true).sum(axis=0) / np.maximum(true.sum(axis=0), 1)
    no = (other * false).sum(axis=0) / np.maximum(false.sum(axis=0), 1)
    says_yes, says_no = (probabilities >= yes) & true.any(axis=0), (other >= no) & false.any(axis=0)
    # A model that gives every text the same probability says both.
    rows, columns = np.nonzero((true & says_no & ~says_yes) | (false & says_yes & ~says_no))
    confidence = np.where(true, probabilities, other)
    order = np.argsort(confidence[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    return Suspects(rows, columns, confidence[rows, columns])


def check_mislabelled(labels: list[str], truth: np.ndarray, probabilities: np.ndarray) -> Check:
    """Whether more cells contradict the model, where it is sure, than its own calibrated probabilities promise.

    Every model is wrong somewhere. But a curve from probabilities to rates (Platt's) that fits the bulk of the rows
    runs to 0 and 1, while cells that were labelled wrongly at random are as many where the model is sure.

    Args:
        labels: names of the labels, `[L]`.
        truth: `[N, L]`, 0, 1 or NaN.
        probabilities: `[N, L]`, of a model that has not seen the rows.
    """
    suspects = find_suspects(truth, probabilities)
    cells = int(known_cells(truth).sum())
    seen = f"{len(suspects.rows):,} of {cells:,} cells look like mistakes (the report lists the likeliest)"
    curves = fit_platt(probabilities, truth)
    calibrated = curves.apply(probabilities)
    confidence = np.where(truth == 1, calibrated, 1 - calibrated)
    unlikely = np.minimum(calibrated, 1 - calibrated)
    sure = (unlikely < SURE) & (curves.slopes > 0) & known_cells(truth)
    found, expected = int((confidence < SURE)[sure].sum()), float(unlikely[sure].sum())
    figures = {"suspects": float(len(suspects.rows)), "contradicted": float(found), "expected": expected}
    # Twice as many: curves are fitted, and never quite right.
    if found == 0 or pdtrc(found - 1, 2 * expected) > 1 - LEVEL:
        return Check("labels that look like mistakes", seen)
    what = (
        f"in {found:,} of {int(sure.sum()):,} cells of which the model is sure, the label says the opposite, where its "
        f"calibrated probabilities promise {expected:.1f}: some labels of the validation rows look like mistakes"
    )
    remedy = "read the rows in report.html under Labels that look like mistakes, and put those right that are wrong"
    return Check("labels that look like mistakes", seen, [Finding("mislabelled", what, remedy, "warning", figures)])
