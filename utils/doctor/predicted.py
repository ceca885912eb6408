"""Findings about what a model predicts: the same for every text, labels never given, no better than chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from utils.doctor.bars import Ranking, count_rows, each_of, rates_differ, share_interval
from utils.doctor.finding import PROBLEM, WARNING, Check, Finding, name_labels
from utils.scoring.calibration import finite_logit
from utils.scoring.thresholds import Thresholds

# A ROC-AUC that a label of some use has: where chance alone reaches it, there are too few rows to say anything.
OF_USE = 0.7
# A threshold nearer than this to 0 or 1 lies at the edge; moved by as much, it must not change what is predicted.
EDGE = 0.01
FEW = 10  # validation rows of a label
SWAPS = 200  # resamples of the rows


def check_spread(
    labels: list[str], probabilities: np.ndarray, learnt_from: tuple[np.ndarray, np.ndarray]
) -> tuple[Check, list[str]]:
    """Whether the probabilities of a label differ between texts.

    The bar: the logits of 95 % of the texts lie closer together than the ends of the interval in which the label's rate
    itself is known. A model that knew the rate alone would say as much.

    Args:
        labels: names of the labels, `[L]`.
        probabilities: `[N, L]`.
        learnt_from: rows that have each label, and in which it is known, that the rate was learnt from: `[L]` both.

    Returns:
        the check, and the labels for which they do not differ.
    """
    low, high = np.quantile(probabilities, [0.025, 0.975], axis=0)
    ends = np.array([share_interval(int(count), int(of), 0.95) for count, of in zip(*learnt_from)])
    # In logits, as probabilities that a loss has squeezed together at one end may differ by much. There must be rows to
    # learn from: the interval of a rate near 0 has no lower end.
    closer = finite_logit(high) - finite_logit(low) < finite_logit(ends[:, 1]) - finite_logit(ends[:, 0])
    same = np.flatnonzero(closer & (learnt_from[0] >= 10))
    width = high - low
    narrow, wide = int(width.argmin()), int(width.argmax())
    seen = f"95 % of a label's probabilities span {width[narrow]:.3f} ({labels[narrow]}) to {width[wide]:.3f}"
    seen += f" ({labels[wide]})"
    if not len(same):
        return Check("spread of the probabilities", seen), []
    names = [labels[i] for i in same]
    examples = "; ".join(f"{labels[i]} {low[i]:.3f} to {high[i]:.3f}" for i in same[:3])
    finding = Finding(
        "same_for_every_text",
        f"the model gives nearly every text the same probability for {name_labels(names, len(labels))} (95 % of the "
        f"texts: {examples}): it has learnt no more than how frequent they are",
        "look at the training loss: if it jumped or became flat, divide --learning_rate by 10; if it still falls, "
        "train for more --num_train_epochs or with a higher --learning_rate",
        PROBLEM if 2 * len(same) > len(labels) else WARNING,
        {f"span/{labels[i]}": float(width[i]) for i in same},
        names,
    )
    return Check("spread of the probabilities", seen, [finding]), names


def check_chance(labels: list[str], ranking: Ranking, left_out: list[str], half_width: float | None = None) -> Check:
    """Whether the model tells texts with a label from those without it better than chance.

    Args:
        labels: names of the labels, `[L]`.
        ranking: of the validation rows.
        left_out: labels of which it is said already that their probabilities do not differ.
        half_width: of the 95 % interval of macro ROC-AUC.
    """
    title = "better than chance"
    if not len(ranking.judged):
        return Check(title, "no label has rows with and without it")
    mean, bar = float(ranking.auc.mean()), ranking.mean_by_chance
    shown = f"{mean:.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")
    seen = f"macro ROC-AUC {shown}; by chance it stays below {bar:.3f}"
    remedy = (
        "check that texts and labels of the training file belong together (a shuffled column, another file's ids, "
        "labels in another order); else train longer, or with another --learning_rate"
    )
    if mean <= bar:
        what = f"the model is no better than chance: macro ROC-AUC is {shown}, and labels dealt out to the rows at "
        what += f"random give up to {bar:.3f}"
        return Check(title, seen, [Finding("chance", what, remedy, PROBLEM, {"roc_auc_macro": mean, "chance": bar})])
    each = ranking.each_by_chance(each_of(len(labels)))
    poor = [k for k in range(len(each)) if ranking.auc[k] <= each[k] < OF_USE]
    names = [labels[ranking.judged[k]] for k in poor]
    names, poor = [n for n in names if n not in left_out], [k for k, n in zip(poor, names) if n not in left_out]
    if not names:
        return Check(title, seen)
    examples = "; ".join(f"{labels[ranking.judged[k]]} {ranking.auc[k]:.3f}, by chance {each[k]:.3f}" for k in poor[:4])
    what = f"for {name_labels(names, len(labels))} the model is no better than chance (ROC-AUC: {examples})"
    figures = {f"roc_auc/{name}": float(ranking.auc[k]) for k, name in zip(poor, names)}
    what_to_do = "look at some of its rows in both files: it may mean another thing there, or not be in the text at all"
    return Check(title, seen, [Finding("chance_for_labels", what, what_to_do, WARNING, figures, names)])


def beside_linear(check: Check, at_chance: bool) -> Check:
    """What `check_chance` says, with whether a linear model on the words of the same rows does better than chance."""

    def told(finding: Finding) -> Finding:
        if finding.kind != "chance":
            return finding
        what = f"{finding.what}; a linear model on words does better, so that texts and labels do belong together"
        if at_chance:
            what = f"{finding.what}; nor is a linear model on words: texts and labels do not belong together"
        return replace(finding, what=what, figures={**finding.figures, "linear_at_chance": float(at_chance)})

    return replace(check, findings=[told(finding) for finding in check.findings])


def check_swapped(labels: list[str], truth: np.ndarray, probabilities: np.ndarray) -> Check:
    """Whether two label columns of the validation rows look exchanged: each label's probabilities fit the other better.

    The bar: in more than 99.5 % of the resamples of the rows both are so.

    Args:
        labels: names of the labels, `[L]`.
        truth: `[N, L]`, 0, 1 or NaN.
        probabilities: `[N, L]`.
    """
    title, (positives, known) = "exchanged labels", count_rows(truth)
    judged = np.flatnonzero((positives > 0) & (positives < known))
    centred = _standardised(probabilities[:, judged])
    true = _standardised(truth[:, judged].astype(float))
    fit = true.T @ centred / len(truth)  # correlation of each label (row) with each column of probabilities
    own = np.diag(fit)
    pairs = [
        (a, b)
        for a in range(len(judged))
        for b in range(a + 1, len(judged))
        if fit[a, b] > max(own[a], own[b]) and fit[b, a] > max(own[a], own[b])
    ]
    rng, clear = np.random.default_rng(0), []
    for a, b in pairs:
        draws = rng.integers(len(truth), size=(SWAPS, len(truth)))
        crossed = ((true[:, a] * centred[:, b])[draws].mean(axis=1), (true[:, b] * centred[:, a])[draws].mean(axis=1))
        straight = ((true[:, a] * centred[:, a])[draws].mean(axis=1), (true[:, b] * centred[:, b])[draws].mean(axis=1))
        if (np.minimum(*crossed) > np.maximum(*straight)).mean() > 1 - (1 - 0.99) / 2:
            clear.append((a, b))
    if not clear:
        return Check(title, "each label fits its own probabilities best, or not clearly worse than another's")
    named = [(labels[judged[a]], labels[judged[b]], fit[a, b], own[a]) for a, b in clear]
    examples = "; ".join(
        f"{x} and {y} (correlation {crossed:.2f} crosswise, {straight:.2f} as named)"
        for x, y, crossed, straight in named
    )
    finding = Finding(
        "exchanged_labels",
        f"labels of the validation rows look exchanged: {examples}",
        "compare the label columns of both files: names and order",
        PROBLEM,
        {},
        sorted({name for x, y, *_ in named for name in (x, y)}),
    )
    return Check(title, examples, [finding])


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1; 0 for NaN."""
    spread = np.nanstd(columns, axis=0)
    return np.nan_to_num((columns - np.nanmean(columns, axis=0)) / np.where(spread > 0, spread, 1))


def check_given(
    labels: list[str], truth: np.ndarray, probabilities: np.ndarray, chosen: Thresholds, left_out: list[str]
) -> list[Check]:
    """Whether labels are never or always given, and whether thresholds lie at the edge.

    Args:
        labels: names of the labels, `[L]`.
        truth: `[N, L]`, 0, 1 or NaN.
        probabilities: `[N, L]`.
        chosen: thresholds for new rows.
        left_out: labels of which it is said already that their probabilities do not differ.
    """
    rows, level = len(truth), each_of(len(labels))
    given, thresholds = chosen.apply(probabilities).sum(axis=0), chosen.values
    true, known = count_rows(truth)
    findings, told = [], set(left_out)
    for kind, count, word in (("never_given", 0, "never"), ("always_given", rows, "always")):
        found = [
            i
            for i, label in enumerate(labels)
            if given[i] == count
            and label not in told
            and rates_differ((count, rows), (int(true[i]), int(known[i])), level)
        ]
        if not found:
            continue
        names = [labels[i] for i in found]
        examples = "; ".join(
            f"{labels[i]} {true[i]:,} rows, threshold {thresholds[i]:.3f}, probabilities "
            f"{probabilities[:, i].min():.3f} to {probabilities[:, i].max():.3f}"
            for i in found[:3]
        )
        findings.append(
            Finding(
                kind,
                f"{name_labels(names, len(labels))} {'is' if len(names) == 1 else 'are'} {word} given to any of "
                f"{rows:,} validation rows (true: {examples})"
                if word == "never"
                else f"{name_labels(names, len(labels))} {'is' if len(names) == 1 else 'are'} given to every one of "
                f"{rows:,} validation rows (true: {examples})",
                "with --threshold_strategy fixed choose another strategy; else the model does not tell such texts "
                "apart: train longer, weigh rare labels more (--pos_weight balanced), or bring more rows of them",
                WARNING,
                {f"true/{labels[i]}": float(true[i]) for i in found},
                names,
            )
        )
        told |= set(names)
    fewest, most = int(given.argmin()), int(given.argmax())
    seen = f"from {given[fewest]:,} ({labels[fewest]}) to {given[most]:,} ({labels[most]}) of {rows:,} rows"
    check = Check("labels given", seen, findings)
    return [check] if chosen.rule.gives_one_label else [check, _check_edges(labels, probabilities, thresholds, told)]


def _check_edges(labels: list[str], probabilities: np.ndarray, thresholds: np.ndarray, told: set[str]) -> Check:
    rows, level = len(probabilities), each_of(len(labels))
    fragile = []
    for i in np.flatnonzero((thresholds < EDGE) | (thresholds > 1 - EDGE)):
        near = [int((probabilities[:, i] >= thresholds[i] + move).sum()) for move in (-EDGE, EDGE)]
        if labels[i] not in told and rates_differ((near[0], rows), (near[1], rows), level):
            fragile.append((int(i), near))
    seen = f"from {thresholds.min():.3f} ({labels[int(thresholds.argmin())]}) to {thresholds.max():.3f} "
    seen += f"({labels[int(thresholds.argmax())]})"
    if not fragile:
        return Check("thresholds", seen)
    names = [labels[i] for i, _ in fragile]
    examples = "; ".join(
        f"{labels[i]} {thresholds[i]:.4f}: {EDGE} lower or higher gives it to {a:,} or {b:,} of {rows:,} rows"
        for i, (a, b) in fragile[:3]
    )
    finding = Finding(
        "threshold_at_edge",
        f"the threshold of {name_labels(names, len(labels))} lies at the edge, where the probabilities are squeezed "
        f"together ({examples})",
        "train with a smaller --pos_weight, or another --loss, so that its probabilities spread out",
        WARNING,
        {f"threshold/{labels[i]}": float(thresholds[i]) for i, _ in fragile},
        names,
    )
    return Check("thresholds", seen, [finding])


def check_support(
    labels: list[str], truth: np.ndarray, train_positives: np.ndarray | None, low: np.ndarray, ranking: Ranking
) -> Check:
    """Whether labels have so few rows that their score is noise, or cannot be learnt at all.

    The bar: fewer than FEW validation rows, each of which moves recall by more than 10 points; or the interval of the
    label's F1 reaches down to what giving the label to every row would score, and chance alone could rank its rows so.

    Args:
        labels: names of the labels, `[L]`.
        truth: `[N, L]`, 0, 1 or NaN.
        train_positives: training rows of each label, `[L]`; None where nothing was trained.
        low: lower end of the interval of each label's F1, `[L]`.
        ranking: of the validation rows.
    """
    true, known = count_rows(truth)
    always = 2 * true / np.maximum(known + true, 1)
    chance = np.ones(len(labels))
    chance[ranking.judged] = ranking.each_by_chance()
    few = (true > 0) & (true < FEW)
    noisy = [i for i in range(len(labels)) if few[i] or (low[i] <= always[i] and chance[i] >= OF_USE)]
    rarest = int(true.argmin())
    seen = f"the rarest: {labels[rarest]}, {true[rarest]:,} validation rows"
    findings = []
    if train_positives is not None:
        unseen = [label for label, count in zip(labels, train_positives) if count == 0]
        seen += f", {train_positives[rarest]:,} training rows"
        if unseen:
            what = f"no training row has {name_labels(unseen, len(labels))}: it cannot be learnt, and lowers macro-F1"
            remedy = "bring rows of it, or leave it out by --label_columns"
            findings.append(Finding("never_seen", what, remedy, PROBLEM, labels=unseen))
    if noisy:
        names = [labels[i] for i in noisy]
        examples = "; ".join(f"{labels[i]} {true[i]:,}" for i in noisy[:6])
        what = f"validation rows of {name_labels(names, len(labels))} are so few ({examples}) that the score is noise: "
        at_chance = all(low[i] <= always[i] for i in noisy)
        what += (
            "its interval holds what giving the label to every text would score"
            if at_chance
            else f"one row more that is right raises recall by more than {100 // FEW} points"
        )
        remedy = "validate on more rows, or over folds (--num_folds); do not choose between runs by these labels"
        figures = {f"rows/{labels[i]}": float(true[i]) for i in noisy}
        findings.append(Finding("few_rows", what, remedy, WARNING, figures, names))
    return Check("rows of the labels", seen, findings)
