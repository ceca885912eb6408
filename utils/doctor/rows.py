"""Findings about the rows: whether those for validation are like those of training, and what the model sees of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from utils.core.tables import format_share
from utils.doctor.bars import Mean, each_of, more_than, rates_differ, ratio_interval
from utils.doctor.finding import PROBLEM, Check, Finding, name_labels
from utils.doctor.texts import TextFigures
from utils.scoring.scores import known_cells

# What does not matter, however sure it is: see `utils.doctor.bars`.
RATE_FACTOR = 1.25
LENGTH_FACTOR = 1.5
SCRIPT_POINTS = 0.05
# Texts of the same language in another style have lost 15 % of their familiar letters (stories against tweets), Dutch
# against English 22 %, German 30 %, Spanish 55 %.
FAMILIAR_LOST = 0.2
MANY = 0.05
LEAKED = 0.01
# How much more often labels may come together in validation that no training row has together.
UNSEEN_FACTOR = 1.5


def check_rates(
    labels: list[str], train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray]
) -> Check:
    """Whether the labels are as frequent in validation as in training.

    Args:
        labels: names of the labels, `[L]`.
        train: rows that have each label, and in which it is known, `[L]` both.
        validation: the same.
    """
    here, there = (counts / np.maximum(rows, 1) for counts, rows in (train, validation))
    level = each_of(len(labels))
    apart = []
    for i, (a, of_a, b, of_b) in enumerate(zip(*train, *validation)):
        counts = (int(b), int(of_b)), (int(a), int(of_a))
        low, high = ratio_interval(*counts, level)
        if low > RATE_FACTOR or high < 1 / RATE_FACTOR or rates_differ(*counts, level, RATE_FACTOR):
            apart.append(i)
    both = [i for i in range(len(labels)) if here[i] > 0 and there[i] > 0]
    seen = "no label is in both"
    if both:
        farthest = max(both, key=lambda i: abs(np.log(there[i] / here[i])))
        seen = f"the farthest apart: {labels[farthest]}, {there[farthest] / here[farthest]:.2f} times as frequent in "
        seen += "validation"
    if not apart:
        return Check("rates of the labels", seen)
    names = [labels[i] for i in apart]
    examples = "; ".join(
        f"{labels[i]} {format_share(here[i])} in training, {format_share(there[i])} in validation" for i in apart[:4]
    )
    finding = Finding(
        "rates_differ",
        f"training and validation rows differ in the rates of {name_labels(names, len(labels))}: {examples}",
        "draw both from the same rows: leave --validation_file out and a share of the training rows is held out, "
        "stratified over the labels; thresholds follow the rates of the validation rows",
        figures={f"ratio/{labels[i]}": float(there[i] / here[i]) for i in apart if i in both},
        labels=names,
    )
    return Check("rates of the labels", seen, [finding])


def check_label_sets(train_texts: np.ndarray, train: np.ndarray, validation: np.ndarray) -> Check:
    """Whether validation rows have labels together that no training row has, more often than a training row has that no
    other one has: cells that were set by mistake, or by other rules, make such rows.

    Args:
        train_texts: hashes of the texts, `[M]`; one that stands twice with the same labels counts once.
        train: `[M, L]`, 0, 1 or NaN; rows with unknown cells are left out.
        validation: `[N, L]`, likewise, and rows with a label that no training row has.
    """
    title = "labels that come together"
    rows = pd.DataFrame(train).assign(text=train_texts).dropna().drop_duplicates()
    counts = Counter(map(tuple, rows.drop(columns="text").to_numpy(dtype=np.int8).tolist()))
    alone = sum(count for count in counts.values() if count == 1)
    never_seen = ~(train == 1).any(axis=0)
    known = known_cells(validation).all(axis=1) & ~(validation[:, never_seen] == 1).any(axis=1)
    known = validation[known].astype(np.int8)
    unseen = sum(tuple(row) not in counts for row in known.tolist())
    here, there = (unseen, len(known)), (alone, len(rows))
    seen = f"{unseen:,} of {len(known):,} validation rows have labels together that no training row has"
    if not rates_differ(here, there, factor=UNSEEN_FACTOR) or unseen * len(rows) <= alone * len(known):
        return Check(title, seen)
    what = f"{seen} ({format_share(unseen / len(known))}); of the training rows {format_share(alone / len(rows))} have "
    what += "labels together that no other one has: labels of the validation rows look like mistakes, or follow other "
    what += "rules"
    remedy = "read such rows: compare how both files were labelled, and the order of their label columns"
    figures = {"unseen": float(unseen), "rows": float(len(known)), "alone": alone / len(rows)}
    return Check(title, seen, [Finding("mislabelled", what, remedy, figures=figures)])


def compare_texts(reference: TextFigures, texts: TextFigures, here: str, there: str) -> dict[str, str]:
    """In what texts are unlike those that a model was trained on: sentences by kind; none where they are not.

    Args:
        reference: the training texts.
        texts: the others.
        here: what the training texts are called.
        there: what the others are called.
    """
    found = {}
    low, high = texts.lengths.difference(reference.lengths)
    if low > np.log(LENGTH_FACTOR) or high < -np.log(LENGTH_FACTOR):
        found["lengths_differ"] = (
            f"a text {there} has {_typical(texts.lengths)} letters and signs, one {here} {_typical(reference.lengths)} "
            "(geometric means)"
        )
    for script in sorted({*texts.scripts, *reference.scripts}):
        counts = [(one.scripts.get(script, 0), one.rows) for one in (texts, reference)]
        if rates_differ(counts[0], counts[1], points=SCRIPT_POINTS):
            found["scripts_differ"] = (
                f"{format_share(counts[0][0] / counts[0][1])} of the texts {there} are in {script.title()} script, "
                f"{here} {format_share(counts[1][0] / max(1, counts[1][1]))}"
            )
            break
    low, high = texts.familiar.difference(reference.familiar)
    if high < -FAMILIAR_LOST * reference.familiar.mean and "scripts_differ" not in found:
        found["languages_differ"] = (
            f"the texts {there} read like another language: {format_share(texts.familiar.mean)} of their runs of three "
            f"letters are among the {len(reference.profile)} commonest of the training texts, where it is "
            f"{format_share(reference.familiar.mean)}"
        )
    counts = [(one.unknown_rows, one.rows) for one in (texts, reference)]
    if rates_differ(counts[0], counts[1], factor=2.0, points=MANY) and texts.unknown_rows / max(1, texts.rows) > (
        reference.unknown_rows / max(1, reference.rows)
    ):
        found["unknown_tokens_differ"] = (
            f"{format_share(texts.unknown_rows / texts.rows)} of the texts {there} hold tokens that the model does not "
            f"know, {here} {format_share(reference.unknown_rows / reference.rows)}"
        )
    return found


def _typical(lengths: Mean) -> str:
    return f"{np.exp(lengths.mean):.0f}"


def check_texts(train: TextFigures, validation: TextFigures) -> Check:
    """Whether validation texts are like training texts: length, script, language."""
    found = compare_texts(train, validation, "in training", "in validation")
    remedy = (
        "validate on texts like those that will be predicted, and train on such texts: scores say nothing about others"
    )
    seen = (
        f"{_typical(train.lengths)} and {_typical(validation.lengths)} letters, "
        f"{_scripts(train)} and {_scripts(validation)} script, "
        f"{format_share(train.familiar.mean)} and {format_share(validation.familiar.mean)} familiar runs of letters"
    )
    return Check("training and validation texts", seen, [Finding(kind, what, remedy) for kind, what in found.items()])


def _scripts(figures: TextFigures) -> str:
    return max(figures.scripts, key=figures.scripts.__getitem__).title() if figures.scripts else "no"


def check_leaks(leaked: np.ndarray | None, number: int, rows: int, right: np.ndarray) -> Check:
    """Whether validation rows are near-duplicates of training rows.

    Args:
        leaked: which of the rows are, `[N]` of booleans; None where only their number is known.
        number: of all leaked rows.
        rows: of all validation rows.
        right: Jaccard index of the rows looked at, `[N]`.
    """
    seen = f"{number:,} of {rows:,} validation rows have a near-duplicate in training"
    if not more_than(number, rows, LEAKED):
        return Check("duplicates across training and validation", seen)
    figures = {"leaked": float(number), "rows": float(rows)}
    what = f"{seen} ({format_share(number / rows)}), so the scores are too good"
    if leaked is not None and leaked.any() and not leaked.all():
        there, others = Mean.of(right[leaked]), Mean.of(right[~leaked])
        figures |= {"jaccard_leaked": there.mean, "jaccard_others": others.mean}
        what += f": Jaccard is {there} on these and {others} on the others"
    remedy = "pass --drop_leaks, which leaves those training rows out, or hold rows out by --validation_fraction"
    severity = PROBLEM if more_than(number, rows, 0.1) else "warning"
    return Check("duplicates across training and validation", seen, [Finding("leaks", what, remedy, severity, figures)])


def check_cut(lengths: np.ndarray, full_lengths: np.ndarray, limit: int) -> Check:
    """Whether many training texts are longer than what the model sees of them.

    Args:
        lengths: tokens that the model sees, `[N]`.
        full_lengths: tokens of the whole texts.
        limit: what texts are cut to.
    """
    cut = full_lengths > lengths
    seen = f"{cut.sum():,} of {len(cut):,} training texts are longer than {limit} tokens"
    if not more_than(int(cut.sum()), len(cut), MANY):
        return Check("texts cut", seen)
    lost = 1 - lengths[cut].sum() / full_lengths[cut].sum()
    enough = int(np.ceil(np.quantile(full_lengths, 0.99)))
    what = f"{seen} ({format_share(cut.mean())}): the model does not see {format_share(float(lost))} of their tokens"
    remedy = f"raise --max_length: {enough} holds 99 % of the texts, as far as the model takes that many"
    return Check(
        "texts cut",
        seen,
        [Finding("texts_cut", what, remedy, figures={"share": float(lost), "texts": float(cut.mean())})],
    )


def check_unknown(train: TextFigures, described: str, unknown: np.ndarray, right: np.ndarray) -> Check:
    """Whether texts with tokens that the model does not know are many, and harder for it.

    Args:
        train: the training texts.
        described: the commonest unknown signs, in words.
        unknown: which of the validation rows looked at have such tokens, `[N]` of booleans.
        right: Jaccard index of the validation rows looked at, `[N]`.
    """
    share = train.unknown_rows / max(1, train.rows)
    seen = f"{train.unknown_rows:,} of {train.rows:,} training texts hold tokens that the model does not know"
    if not more_than(train.unknown_rows, train.rows, MANY):
        return Check("unknown tokens", seen)
    seen = f"{seen} ({described})"
    with_, without = Mean.of(right[unknown]), Mean.of(right[~unknown])
    _, high = with_.difference(without)
    if high >= 0 and not more_than(train.unknown_rows, train.rows, 0.5):
        harder = f"; Jaccard is {with_} on such texts, {without} on others" if unknown.any() else ""
        return Check("unknown tokens", f"{seen}{harder}, no clear difference")
    what = f"{seen}, {format_share(share)} of them"
    if high < 0:
        what += f", and they are harder for it: Jaccard is {with_} on such validation texts, {without} on the others"
    remedy = (
        "choose a model whose vocabulary has these signs: those that split texts into bytes (RoBERTa, Qwen) know all, "
        "multilingual ones (XLM-R) other scripts"
    )
    return Check("unknown tokens", seen, [Finding("unknown_tokens", what, remedy, figures={"share": share})])
