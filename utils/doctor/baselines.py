"""What a fine-tuned model has to beat: the frequent labels for every text, and a linear model trained in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.core.tables import format_table
from utils.doctor.bars import SEED, count_rows, rank, some_rows
from utils.doctor.finding import PROBLEM, Check, Finding
from utils.scoring import bootstrap
from utils.scoring.bootstrap import LEVEL, interval, plain_scores, resample, resample_probabilities
from utils.scoring.predictions import Predictions
from utils.scoring.scores import AT_HALF, TUNED, by_name, known_cells, with_interval
from utils.scoring.thresholds import ThresholdRule

FREQUENT, LINEAR = "the frequent labels, always", "TF-IDF, logistic regression"
AT_CHANCE = "ranks_at_chance"
SCORES = {"f1_macro": "macro-F1", "f1_micro": "micro-F1", "jaccard": "Jaccard"}
# Compared too where a run was chosen by them.
MORE_SCORES = ("f1_samples", "exact_match")
# The linear model takes a few seconds whatever the data: 20,000 rows of 28 labels 5 s, 7,000 tweets of 11 labels 1 s.
MOST_TRAINING_ROWS, MOST_CELLS, MOST_LETTERS = 20_000, 300_000, 2_000_000
LETTERS_OF_A_TEXT = 2000
MOST_WORDS = 50_000


def predict_linearly(train_texts: Sequence[str], train_labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Probabilities `[N, L]` of texts by logistic regression on TF-IDF of words and pairs of words, a label at a time.

    Args:
        train_texts: `[M]`.
        train_labels: `[M, L]`, 0, 1 or NaN, which is left out.
        texts: `[N]`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    # Emoji and punctuation are words too, and say much in short texts.
    vectors = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", max_features=MOST_WORDS
    )
    known = vectors.fit_transform([text[:LETTERS_OF_A_TEXT] for text in train_texts])
    new = vectors.transform([text[:LETTERS_OF_A_TEXT] for text in texts])
    true, annotated = count_rows(train_labels)
    probabilities = np.tile(true / np.maximum(annotated, 1), (len(texts), 1))
    for i in np.flatnonzero((true > 0) & (true < annotated)):
        rows = np.flatnonzero(known_cells(train_labels[:, i]))
        # Balanced, so that 0.5 is a fair threshold; liblinear's dual is the fastest for texts.
        model = LogisticRegression(solver="liblinear", dual=True, class_weight="balanced", random_state=SEED)
        probabilities[:, i] = model.fit(known[rows], train_labels[rows, i] == 1).predict_proba(new)[:, 1]
    return probabilities


def training_rows(rows: int, labels: int, mean_letters: float) -> np.ndarray:
    """Numbers of the training rows that the linear model sees: as many as it takes a few seconds for.

    Args:
        rows: of the training data.
        labels: number of labels.
        mean_letters: letters of a text on average.
    """
    letters = min(max(mean_letters, 1.0), LETTERS_OF_A_TEXT)
    most = min(MOST_TRAINING_ROWS, MOST_CELLS // max(1, labels), int(MOST_LETTERS / letters))
    return some_rows(rows, max(500, most))


def frequent_labels(train_labels: np.ndarray, score: str, only_one: bool = False) -> np.ndarray:
    """The most frequent labels, as many as score best on the training rows if every text is given them: 0/1 `[L]`.

    Args:
        train_labels: `[M, L]`, 0, 1 or NaN.
        score: one of SCORES or MORE_SCORES.
        only_one: whether a text has one label.
    """
    true, annotated = count_rows(train_labels)
    order = np.argsort(-true, kind="stable")
    sizes, hits, cells = (train_labels == 1).sum(axis=1), np.zeros(len(train_labels)), known_cells(train_labels)
    best, chosen, given = -1.0, np.zeros(len(true), dtype=np.int8), np.zeros(len(train_labels))
    for number, label in enumerate(order[: 1 if only_one else None], start=1):
        hits += train_labels[:, label] == 1
        given += cells[:, label]
        among = order[:number]
        if score == "f1_macro":
            value = (2 * true[among] / np.maximum(annotated[among] + true[among], 1)).sum() / len(true)
        elif score == "f1_micro":
            value = 2 * true[among].sum() / max(1, annotated[among].sum() + true.sum())
        elif score == "f1_samples":
            value = np.where(sizes + given > 0, 2 * hits / np.maximum(sizes + given, 1), 1.0).mean()
        elif score == "exact_match":
            value = ((hits == sizes) & (hits == given)).mean()
        else:
            union = sizes + given - hits
            value = np.where(union > 0, hits / np.maximum(union, 1), 1.0).mean()
        if value > best:
            best, chosen = float(value), np.isin(np.arange(len(true)), among).astype(np.int8)
    return chosen


def compare_with_baselines(
    predictions: Predictions,
    decided: np.ndarray,
    rule: ThresholdRule,
    train_texts: Sequence[str] | None,
    train_labels: np.ndarray,
) -> list[dict[str, Any]]:
    """Scores of simple methods on the validation rows, and how far the model lies above them.

    The linear model's thresholds are chosen and cross-fitted by the rule of the run.

    Args:
        predictions: N validation rows.
        decided: the model's 0/1 predictions of them, `[P, N, L]`.
        rule: how thresholds are chosen.
        train_texts: `[M]`; None: the linear model is left out.
        train_labels: `[M, L]`, 0, 1 or NaN.

    Returns:
        for each method `name`, and each score by its name: its `value` with the ends of its 95 % interval, `value_low`
        and `value_high`, and how much more the model has, `difference` with `low` and `high`. The first is the model
        itself.
    """
    truth, groups = predictions.truth, predictions.near_duplicates
    names = [*SCORES, *(name for name in MORE_SCORES if name == rule.best_by)]
    frequent = {name: frequent_labels(train_labels, name, rule.gives_one_label) for name in names}
    methods: dict[str, Any] = {FREQUENT: {name: np.tile(row, (len(truth), 1)) for name, row in frequent.items()}}
    ranked, at_chance = {FREQUENT: np.full(truth.shape, 0.5)}, {}  # which ranks no text above another
    if train_texts is not None:
        probabilities = predict_linearly(train_texts, train_labels, predictions.texts)
        answers = Predictions(
            predictions.labels, predictions.ids, truth=truth, probabilities=probabilities, groups=groups
        )
        decisions = answers.decide(rule)
        methods[LINEAR] = dict.fromkeys(names, decisions[AT_HALF if rule.is_fixed else TUNED])
        ranking = rank(truth, probabilities)
        ranked[LINEAR] = probabilities
        at_chance[LINEAR] = bool(len(ranking.judged) and ranking.auc.mean() <= ranking.mean_by_chance)

    draws = (bootstrap.RESAMPLES, bootstrap.SEED, groups)  # those of the run's own intervals
    own, drawn = plain_scores(truth, decided), resample(truth, decided, *draws)
    rows: list[dict[str, Any]] = [
        {"name": "this model", **{name: _with_ends(own[name], drawn[name]) for name in names}}
    ]
    for method, answers in methods.items():
        row: dict[str, Any] = {"name": method} | ({AT_CHANCE: at_chance[method]} if method in at_chance else {})
        sets = {id(answers[name]): answers[name] for name in names}
        resampled = {key: resample(truth, one, *draws) for key, one in sets.items()}
        for name in names:
            value = plain_scores(truth, answers[name])[name]
            other = resampled[id(answers[name])][name]
            low, high = _interval_of_difference(drawn[name] - other, own[name] - value)
            row[name] = _with_ends(value, other) | {"difference": own[name] - value, "low": low, "high": high}
        rows.append(row)
    if by_name(rule.best_by).of_probabilities:
        _add_ranking_score(rows, rule.best_by, predictions, ranked)
    return rows


def _with_ends(value: float, drawn: np.ndarray) -> dict[str, float]:
    """A score and the ends of its interval, from its resamples `[B]`."""
    low, high = interval(drawn, value)
    return {"value": value, "value_low": low, "value_high": high}


def _add_ranking_score(
    rows: list[dict[str, Any]], name: str, predictions: Predictions, ranked: dict[str, np.ndarray]
) -> None:
    """Put a score of probabilities into the rows of `compare_with_baselines`.

    Args:
        rows: that of the model first.
        name: of the score.
        predictions: of the model.
        ranked: probabilities of the simple methods, `[N, L]` each.
    """
    truth, groups, score = predictions.truth, predictions.near_duplicates, by_name(name)
    everything = {rows[0]["name"]: predictions.probabilities} | ranked
    values = {method: float(score.compute(truth, some)) for method, some in everything.items()}
    draws = (bootstrap.RESAMPLES, bootstrap.SEED, groups)
    drawn = {method: resample_probabilities(truth, some, *draws)[name] for method, some in everything.items()}
    model = rows[0]["name"]
    rows[0][name] = _with_ends(values[model], drawn[model])
    for row in rows[1:]:
        method = row["name"]
        difference = values[model] - values[method]
        low, high = _interval_of_difference(drawn[model] - drawn[method], difference)
        row[name] = _with_ends(values[method], drawn[method]) | {"difference": difference, "low": low, "high": high}


def linear_at_chance(rows: Sequence[dict[str, Any]]) -> bool | None:
    """Whether the linear model ranks texts no better than chance, given `compare_with_baselines`; None without it."""
    return next((row[AT_CHANCE] for row in rows if AT_CHANCE in row), None)


def _interval_of_difference(values: np.ndarray, difference: float) -> tuple[float, float]:
    """`utils.scoring.bootstrap.interval` of a difference, which may be below 0."""
    low, high = interval((values + 1) / 2, (difference + 1) / 2, LEVEL)
    return 2 * low - 1, 2 * high - 1


def check_baselines(rows: list[dict[str, Any]], name: str = "f1_macro") -> Check:
    """Whether the model scores below a simple method.

    Args:
        rows: of `compare_with_baselines`.
        name: of the score that the run was chosen by.
    """
    title, score = "against simple methods", by_name(name).title
    model, others = rows[0], rows[1:]
    seen = f"{score} {with_interval(model[name], 'value')}; " + "; ".join(
        f"{row['name']} {with_interval(row[name], 'value')}" for row in others
    )
    findings = []
    below = [row for row in others if row[name]["high"] <= 0]
    if below:
        best = max(below, key=lambda row: row[name]["value"])
        cell = best[name]
        what = f"{best['name']} scores {with_interval(cell, 'value')} of {score} on the same rows, this model "
        what += f"{with_interval(model[name], 'value')}: "
        below_by = f"it lies {-cell['difference']:.3f} below (95 % interval {-cell['high']:.3f} to {-cell['low']:.3f})"
        what += below_by if cell["difference"] <= -0.0005 else "the training has bought nothing"
        remedy = (
            "do not use this model as it is: look at the other findings, train longer, or try another --learning_rate"
        )
        figures = {part: cell[part] for part in ("value", "difference", "low", "high")}
        findings = [Finding("below_baseline", what, remedy, PROBLEM, figures)]
    return Check(title, seen, findings)


def baseline_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """`(header, rows)` of the scores of the model and of simple methods, and what the model has more."""
    header = ["on the same rows", *SCORES.values(), "this model has more macro-F1"]
    cells = []
    for row in rows:
        cell = row["f1_macro"]
        more = f"{cell['difference']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]" if "low" in cell else ""
        cells.append([row["name"], *(with_interval(row[name], "value") for name in SCORES), more])
    return header, cells


def baseline_text(rows: list[dict[str, Any]], markdown: bool = False) -> str:
    """That table; empty where there is none."""
    return format_table(*baseline_table(rows), markdown) if rows else ""
