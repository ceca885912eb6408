"""Findings about rows that a finished run predicts: labels given far more or less often, texts of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.core.files import read_json_object, read_part
from utils.core.tables import format_share
from utils.doctor.bars import each_of, rates_differ
from utils.doctor.finding import DOCTOR_FILE, Finding, finding_lines, name_labels
from utils.doctor.rows import compare_texts
from utils.doctor.texts import MOST_TEXTS, TextFigures

if TYPE_CHECKING:  # loading it takes torch
    from transformers import PreTrainedTokenizerBase

# A run should give a label to as many new rows as to validation rows. Thresholds chosen for macro-F1 may give rare
# labels twice as often as they are true.
DRIFT_FACTOR, FAR_FACTOR = 1.5, 3.0


@dataclass
class Reference:
    """What a run knows of the rows it was made with.

    Args:
        labels: names of the labels, `[L]`.
        rows: validation rows.
        given: to how many of them each label is given, `[L]`.
        train_positives: training rows that have each label, `[L]`.
        train_annotated: training rows in which each label is known, `[L]`; 0 for a model that is used as it is.
        texts: the training texts in figures, None likewise.
    """

    labels: list[str]
    rows: int
    given: np.ndarray
    train_positives: np.ndarray
    train_annotated: np.ndarray
    texts: TextFigures | None

    @classmethod
    def load(cls, folder: str | Path, labels: list[str]) -> Reference | None:
        """That of a finished run, in the order of `labels`; None for a run of before there was one.

        Raises:
            UserError: for a damaged file.
        """
        if not Path(folder, DOCTOR_FILE).exists():
            return None

        def read(path: Path) -> Reference:
            content = read_json_object(path)["reference"]
            columns = [content["labels"].index(label) for label in labels]
            rows, names = int(content["rows"]), ("given", "train_positives", "train_annotated")
            given, positives, annotated = (np.array(content[name], dtype=int)[columns] for name in names)
            if not (
                given.min() >= 0 and given.max() <= rows and positives.min() >= 0 and (positives <= annotated).all()
            ):
                raise ValueError(f"{path}: labels cannot be on more rows than there are")
            texts = TextFigures.from_json(content["texts"]) if content["texts"] else None
            return cls(labels, rows, given, positives, annotated, texts)

        return read_part(folder, DOCTOR_FILE, read)


@dataclass
class NewRows:
    """What is kept of the rows that are predicted, however many there are.

    Args:
        expected: how many rows there will be, if that is known: texts are then taken from all parts of the file.
    """

    expected: int = 0
    rows: int = 0
    given: np.ndarray | None = None
    texts: list[str] = field(default_factory=list)

    def add(self, texts: Sequence[str], predictions: np.ndarray) -> None:
        """Look at some more rows: texts `[n]`, and 0/1 predictions `[n, L]`."""
        step = max(1, -(-self.expected // MOST_TEXTS))
        first = -self.rows % step
        self.texts += list(texts[first::step])[: MOST_TEXTS - len(self.texts)]
        self.rows += len(texts)
        given = predictions.sum(axis=0)
        self.given = given if self.given is None else self.given + given


def compare(reference: Reference, new: NewRows, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """In what new rows are unlike those that a run was made with.

    Args:
        reference: of the run.
        new: rows that it has predicted, labels in the order of the reference.
        tokenizer: of its model.
    """
    if new.given is None:
        return []
    findings, told = [], set()
    comparisons = [
        (reference.given, np.full(len(reference.labels), reference.rows), DRIFT_FACTOR, "validation"),
        (reference.train_positives, reference.train_annotated, FAR_FACTOR, "training"),
    ]
    for counts, rows, factor, where in comparisons:
        apart = [
            i
            for i, (here, there, of) in enumerate(zip(new.given, counts, rows))
            if i not in told
            and rates_differ((int(here), new.rows), (int(there), int(of)), each_of(len(counts)), factor)
        ]
        told |= set(apart)
        if apart:
            shares = (new.given / new.rows, counts / np.maximum(rows, 1))
            findings.append(_rates_finding(reference.labels, apart, shares, where))
    if reference.texts is not None and new.texts:
        texts = TextFigures.of(new.texts, tokenizer, reference.texts.profile)
        remedy = (
            "check that it is the right file and the right column of texts; the scores of the run do not hold for it"
        )
        found = compare_texts(reference.texts, texts, "in training", "here")
        findings += [Finding(kind, what, remedy) for kind, what in found.items()]
    return findings


def _rates_finding(labels: list[str], apart: list[int], shares: tuple[np.ndarray, np.ndarray], where: str) -> Finding:
    """Labels that are given more or less often than they should be.

    Args:
        labels: names of the labels, `[L]`.
        apart: numbers of those.
        shares: of the new rows and of the others, `[L]` both.
        where: the others: training rows, with their true labels, or validation rows, with those that are given.
    """
    names = [labels[i] for i in apart]
    other = "of the validation rows" if where == "validation" else "true of the training rows"
    examples = "; ".join(
        f"{labels[i]} to {format_share(shares[0][i])} of these rows, {format_share(shares[1][i])} {other}"
        for i in apart[:4]
    )
    verb = "is" if len(names) == 1 else "are"
    what = f"{name_labels(names, len(labels))} {verb} given far more or less often than in {where}: {examples}"
    remedy = (
        "read some of these rows; if they are of another kind, the thresholds and scores of the run do not hold for "
        "them: validate on rows like these"
    )
    if where == "training":
        remedy = "look at the findings of the run itself: its thresholds give these labels too freely, or not at all"
    return Finding(f"rates_far_from_{where}", what, remedy, labels=names)


def drift_text(findings: Sequence[Finding], rows: int) -> str:
    """What the doctor says of the rows that were predicted, for the terminal."""
    how_many = f"{len(findings)} warning{'' if len(findings) == 1 else 's'}"
    said = how_many if findings else "like those of the training"
    return "\n".join([f"The doctor looked at these {rows:,} rows: {said}.", *finding_lines(findings)])
