"""Pictures of scores, thresholds and trainings: arrays in, matplotlib figures out.

They are as narrow as a phone's screen, so that the text is not scaled down there. The colours are those of Okabe and
Ito, which colour-blind people can tell apart; shapes always say the same as colours.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri

from utils.scoring.influence import half_width
from utils.scoring.ranking import Ranking
from utils.scoring.reliability import Reliability
from utils.scoring.scores import (
    AT_HALF,
    DECODED,
    TUNED,
    Score,
    average_precision,
    by_name,
    half_width_of,
    hits_and_rows,
    known_cells,
    on_known_cells,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY, DARK = "#0072B2", "#D55E00", "#009E73", "#767676", "#333333"
WIDTH = 4.4  # inches
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so pictures are the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # label names may contain dollar signs
    "svg.hashsalt": "pictures",  # ids in the file do not change from run to run
}
MACRO_F1 = by_name("f1_macro")
MOST_LABELS_IN_F1 = 40
MOST_LABELS_IN_CURVES = 12
MOST_LABELS_IN_MATRIX = 12
MOST_POINTS_OF_A_CURVE = 300


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `height` inches and its axes `[rows, columns]`; `options` go to `Figure.subplots`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def _short(name: str, length: int = 18) -> str:
    """Shorten a name to `length` characters, keeping its beginning and its end: names may differ in either."""
    end = length // 2 - 1
    return name if len(name) <= length else f"{name[: length - end - 1]}…{name[len(name) - end :]}"


def most_frequent(truth: np.ndarray, most: int) -> np.ndarray:
    """Columns of the `most` labels with the most rows, in the order of `truth` `[N, L]`."""
    support = np.nansum(truth, axis=0)
    return np.sort(np.argsort(-support, kind="stable")[:most])


def _which(shown: int, all_labels: int) -> str:
    """Say which labels a picture shows."""
    return f"the {shown} most frequent of {all_labels} labels" if shown < all_labels else f"{all_labels} labels"


def _intervals(
    axis: Axes,
    names: Sequence[str],
    values: Sequence[float] | np.ndarray,
    low: Sequence[float] | np.ndarray,
    high: Sequence[float] | np.ndarray,
    best: int | None = None,
) -> None:
    """Draw a dot with its interval for each name, the first at the top.

    Args:
        axis: where to draw.
        names: written beside the dots, `[R]`.
        values: where the dots are, `[R]`.
        low: lower ends of the intervals, `[R]`.
        high: upper ends of the intervals, `[R]`.
        best: the one to mark; values then have three decimals instead of two.
    """
    places = np.arange(len(names))[::-1]
    for place, value, left, right in zip(places, values, low, high):
        colour = ORANGE if len(names) - 1 - place == best else BLUE
        axis.plot([left, right], [place, place], color=colour, linewidth=2, alpha=0.55, solid_capstyle="butt")
        axis.plot(value, place, "D" if colour == ORANGE else "o", color=colour, markersize=5)
        axis.annotate(
            f"{value:.2f}" if best is None else f"{value:.3f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=DARK,
        )
    axis.set_yticks(places, names)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def label_f1(labels: Sequence[str], f1: np.ndarray, low: np.ndarray, high: np.ndarray, support: np.ndarray) -> Figure:
    """F1 of each label with its interval, the best at the top.

    Args:
        labels: names, `[L]`.
        f1: scores, `[L]`.
        low: lower ends of the intervals, `[L]`.
        high: upper ends of the intervals, `[L]`.
        support: number of rows that have each label, `[L]`.
    """
    support = np.asarray(support)
    shown = np.sort(np.argsort(-support, kind="stable")[:MOST_LABELS_IN_F1])
    order = shown[np.argsort(-np.asarray(f1)[shown], kind="stable")]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.8 + 0.24 * len(order))
        names = [f"{_short(labels[i])} ({int(support[i]):,})" for i in order]
        _intervals(axes[0, 0], names, np.asarray(f1)[order], np.asarray(low)[order], np.asarray(high)[order])
        axes[0, 0].set_xlim(0, 1)
        axes[0, 0].set_xlabel("F1, 95 % interval; number of true rows in brackets")
        axes[0, 0].set_title(_which(len(order), len(labels)), loc="left")
    return figure


def score_intervals(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    title: str,
) -> Figure:
    """A score of several runs with intervals; the first one, the best, is marked.

    Args:
        names: of the runs, `[R]`.
        values: the scores, `[R]`.
        low: lower ends of the intervals, `[R]`.
        high: upper ends of the intervals, `[R]`.
        title: what a person calls it, and what the intervals are over.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.8 + 0.27 * len(names))
        _intervals(axes[0, 0], [_short(name, 26) for name in names], values, low, high, best=0)
        axes[0, 0].set_xlabel(title)
    return figure


def precision_recall(
    labels: Sequence[str],
    truth: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    groups: np.ndarray | None = None,
) -> Figure:
    """Precision over recall of each label, with a diamond at its threshold.

    Args:
        labels: names, `[L]`.
        truth: 0/1, `[N, L]`.
        probabilities: `[N, L]`.
        thresholds: `[L]`.
        groups: `[N]`, equal for near-duplicates, for the intervals; left out: there are none.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    shown = most_frequent(truth, MOST_LABELS_IN_CURVES)
    rows = -(-len(shown) // 2)
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.7 + 1.5 * rows, rows, 2, sharex=True, sharey=True)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, i in zip(axes.flat, shown):
            axis.set_title(f"{_short(labels[i], 12)}", loc="left", fontsize=9, pad=3)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            known = known_cells(truth[:, i])
            _precision_recall_of_label(axis, truth[known, i], probabilities[known, i], thresholds[i], groups[known])
        figure.supxlabel("recall", fontsize=9)
        figure.supylabel("precision", fontsize=9)
        diamond = "" if np.isnan(thresholds).all() else "; diamond: the chosen threshold"
        figure.suptitle(f"{_which(len(shown), len(labels))}{diamond}", fontsize=9)
    return figure


def _precision_recall_of_label(
    axis: Axes, truth: np.ndarray, probabilities: np.ndarray, threshold: float, groups: np.ndarray
) -> None:
    """Draw the curve of one label.

    Args:
        axis: where to draw.
        truth: 0/1, `[N]`.
        probabilities: `[N]`.
        threshold: where the diamond is.
        groups: of near-duplicates, `[N]`.
    """
    if not truth.any():
        axis.text(0.5, 0.5, "no true row", ha="center", va="center", color=GREY)
        return
    hits, rows = hits_and_rows(truth, probabilities)
    precision, recall = np.append((hits / rows)[::-1], 1.0), np.append((hits / hits[-1])[::-1], 0.0)
    drawn = np.unique(np.linspace(0, len(recall) - 1, MOST_POINTS_OF_A_CURVE).astype(int))
    axis.step(recall[drawn], precision[drawn], where="post", color=BLUE, linewidth=1.3)
    axis.axhline(truth.mean(), color=GREY, linewidth=0.9, linestyle=":")  # precision of predicting the label always
    predicted = probabilities >= threshold
    if predicted.any():
        hits = (predicted & (truth == 1)).sum()
        axis.plot(hits / truth.sum(), hits / predicted.sum(), "D", color=ORANGE, markersize=5)
    spread = half_width(Ranking(truth, probabilities).influences()[0], groups)
    score = f"AP {average_precision(truth, probabilities):.2f} ± {spread:.2f}"
    axis.set_title(score, loc="right", fontsize=8, color=DARK, pad=3)


def _wilson_intervals(shares: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals of shares of so many rows: Wilson, Probable inference, JASA 1927."""
    z2 = ndtri(0.975) ** 2
    middle = (shares * numbers + z2 / 2) / (numbers + z2)
    half = np.sqrt(z2 * (shares * (1 - shares) * numbers + z2 / 4)) / (numbers + z2)
    return middle - half, middle + half


def co_occurrence(labels: Sequence[str], truth: np.ndarray, predictions: np.ndarray) -> Figure:
    """Number of rows that have both of two labels: true ones below the diagonal, predicted ones above it.

    Args:
        labels: names, `[L]`.
        truth: 0/1, `[N, L]`.
        predictions: 0/1, `[N, L]`.
    """
    shown = most_frequent(truth, MOST_LABELS_IN_MATRIX)
    truth, predictions = (array[:, shown].astype(np.int64) for array in on_known_cells(truth, predictions))
    true, predicted = truth.T @ truth, predictions.T @ predictions
    counts = (np.tril(true, -1) + np.triu(predicted, 1)).astype(float)
    np.fill_diagonal(counts, np.nan)
    title = f"rows with both; below the diagonal true, above predicted\n{_which(len(shown), len(labels))}"
    figure = _matrix([labels[i] for i in shown], counts, title)
    figure.axes[0].plot([-0.5, len(shown) - 0.5], [-0.5, len(shown) - 0.5], color=GREY, linewidth=0.8)
    return figure


def confusion(labels: Sequence[str], truth: np.ndarray, predictions: np.ndarray) -> Figure:
    """Number of rows with each true label (down) that were given each label (across).

    Args:
        labels: names, `[L]`.
        truth: 0/1 with a 1 in each row, `[N, L]`.
        predictions: likewise.
    """
    shown = most_frequent(truth, MOST_LABELS_IN_MATRIX)
    truth, predictions = (np.asarray(array)[:, shown].astype(np.int64) for array in (truth, predictions))
    title = f"rows by true label (down) and label given (across)\n{_which(len(shown), len(labels))}"
    return _matrix([labels[i] for i in shown], (truth.T @ predictions).astype(float), title)


def _matrix(labels: Sequence[str], counts: np.ndarray, title: str) -> Figure:
    """A picture of counts of pairs of labels.

    Args:
        labels: names, `[K]`.
        counts: `[K, K]`; NaN cells stay empty.
        title: above it.
    """
    names = [_short(label, 14) for label in labels]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(1.5 + 0.27 * len(names))
        axis = axes[0, 0]
        _counts(axis, counts)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        figure.suptitle(title, fontsize=9)
    return figure


def _counts(axis: Axes, counts: np.ndarray) -> None:
    """Draw a matrix of counts: numbers on cells that are darker for larger ones; NaN cells stay empty."""
    highest = max(1.0, np.nanmax(counts))
    axis.imshow(counts, cmap="Blues", vmin=0, vmax=highest * 1.15, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if not np.isnan(count):
            axis.text(
                column,
                row,
                f"{count:.0f}" if count < 10_000 else f"{count / 1000:.0f}k",
                ha="center",
                va="center",
                fontsize=7.5 if highest < 1000 else 6,
                color="white" if count > 0.6 * highest else "#222222",
            )


def calibration(before: Reliability, after: Reliability | None = None) -> Figure:
    """Reliability diagram of all cells, as predicted and calibrated, and the number of cells in each bin."""
    shown = [(before, "as predicted", BLUE, "o-")]
    if after is not None:
        shown.append((after, "calibrated", ORANGE, "D--"))
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(4.8, 2, 1, sharex=True, height_ratios=[3, 1])
        upper, lower = axes[:, 0]
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=":", label="as it should be")
        for of, name, colour, form in shown:
            filled = of.counts > 0
            bars = _wilson_intervals(of.true[filled], of.counts[filled])
            upper.vlines(of.predicted[filled], *bars, color=colour, lw=1)
            style = {"color": colour, "markersize": 4.5, "lw": 1.3, "clip_on": False}
            upper.plot(of.predicted[filled], of.true[filled], form, label=f"{name}, 95 %", **style)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of them true")
        errors = [f"{of.error:.3f} [{of.low:.3f}, {of.high:.3f}]" for of, *_ in shown]
        title = ",\ncalibrated ".join(errors)
        upper.set_title(f"expected calibration error {title}, all labels together", loc="left")
        upper.legend(loc="upper left", fontsize=8)
        bins = len(before.counts)
        lower.bar(np.arange(bins) / bins, before.counts, width=0.92 / bins, align="edge", color=BLUE)
        lower.set_yscale("log")
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.set(ylim=(0.7, 2 * max(before.counts.max(), 1)), ylabel="cells (log)", xlabel="probability")
    return figure


# Training

# `(key in the log history, name, colour, form)` of the lines in each panel; those of scores by the suffix of the key.
LOSS_LINES = (("loss", "training", BLUE, "-"), ("eval_loss", "validation", ORANGE, "o--"))
SCORE_LINES = (
    (AT_HALF, "at 0.5", BLUE, "s-"),
    (TUNED, "tuned", ORANGE, "o--"),
    (DECODED, "decoded", GREEN, "^:"),
)


def has_training_curves(log_history: Iterable[Mapping[str, Any]]) -> bool:
    """Whether there is something to draw in `log_history`, from trainer_state.json."""
    return any("loss" in entry or "eval_loss" in entry or "eval_f1_macro" in entry for entry in log_history)


def training_curves(
    log_history: Sequence[Mapping[str, Any]], best_step: int | None = None, main: Score = MACRO_F1
) -> Figure:
    """Loss, and a score on the validation rows with its 95 % interval, over the optimizer's steps.

    Args:
        log_history: from trainer_state.json.
        best_step: step of the checkpoint that was kept, which is marked; None if unknown.
        main: the score.
    """

    def points(key: str) -> np.ndarray:
        """Steps and values of one line, `[2, points]`."""
        pairs = [(entry["step"], entry[key]) for entry in log_history if entry.get(key) is not None]
        return np.array(pairs, dtype=float).reshape(-1, 2).T

    score_lines = tuple((f"eval_{main.name}{kind}", *form) for kind, *form in SCORE_LINES)
    panels = [("loss", LOSS_LINES), (f"validation {main.title}", score_lines)]
    panels = [(title, [line for line in lines if points(line[0]).size]) for title, lines in panels]
    panels = [(title, lines) for title, lines in panels if lines]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.5 + 2.2 * max(1, len(panels)), max(1, len(panels)), 1, sharex=True)
        for axis, (title, lines) in zip(axes[:, 0], panels):
            for key, name, colour, form in lines:
                steps, values = points(key)
                form = form if len(steps) > 1 else "o"
                axis.plot(steps, values, form, color=colour, linewidth=1.3, markersize=3.5, label=name)
                if key in {line[0] for line in score_lines}:
                    widths = dict(points(half_width_of(key)).T.tolist())  # by step
                    half = np.array([widths.get(step, 0.0) for step in steps])
                    axis.fill_between(steps, values - half, values + half, color=colour, alpha=0.12, linewidth=0)
            if best_step:
                axis.axvline(best_step, color=GREY, linewidth=0.9, linestyle=":", label="checkpoint kept")
            axis.set_title(title, loc="left")
            axis.legend(fontsize=8)
        axes[-1, 0].set_xlabel("step")
    return figure


# Saving


def save_png(figure: Figure, path: str | Path) -> None:
    """Save a figure as a PNG with 200 dots per inch, atomically."""
    from utils.core.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)


def data_uri(figure: Figure) -> str:
    """A figure as SVG in a `data:` URI, for the `src` of an image."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
