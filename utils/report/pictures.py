"""Pictures of scores, thresholds and trainings: arrays in, matplotlib figures out.

Drawn narrow, as wide as a phone shows, so that the letters stay as large as they were meant. The colours are those of
Okabe and Ito, which colour-blind people can tell apart; form says the same as colour throughout.
"""

import base64
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
WIDTH = 4.4  # inches
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
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
    "text.parse_math": False,  # a dollar sign in the name of a label is one
    "svg.hashsalt": "pictures",  # the same picture is the same file
}
MOST_LABELS_IN_F1 = 40
MOST_LABELS_IN_CURVES = 12
MOST_LABELS_IN_MATRIX = 12
MOST_POINTS_OF_A_CURVE = 300


def _figure(height, rows=1, columns=1, **options):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def _short(name, length=18):
    """At most `length` letters of a name, its beginning and its end: names may differ in either."""
    end = length // 2 - 1
    return name if len(name) <= length else f"{name[: length - end - 1]}…{name[len(name) - end :]}"


def most_frequent(truth, most):
    """Columns of the labels with the most rows, at most `most`, in the order of `truth` `[N, L]`."""
    support = np.asarray(truth).sum(axis=0)
    return np.sort(np.argsort(-support, kind="stable")[:most])


def _which(shown, all_labels):
    return f"the {shown} most frequent of {all_labels} labels" if shown < all_labels else f"{all_labels} labels"


def _intervals(axis, names, values, low, high, best=None):
    """A dot with its interval for each name, the first at the top."""
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
            color="#333333",
        )
    axis.set_yticks(places, names)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def label_f1(labels, f1, low, high, support):
    """F1 of each label with its interval, the best at the top; all arrays `[L]`."""
    support = np.asarray(support)
    shown = np.sort(np.argsort(-support, kind="stable")[:MOST_LABELS_IN_F1])
    order = shown[np.argsort(-np.asarray(f1)[shown], kind="stable")]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.8 + 0.24 * len(order))
        names = [f"{_short(labels[i])} ({int(support[i]):,})" for i in order]
        _intervals(axes[0, 0], names, np.asarray(f1)[order], np.asarray(low)[order], np.asarray(high)[order])
        axes[0, 0].set_xlim(0, 1)
        axes[0, 0].set_xlabel("F1, 95 % interval; in brackets the true rows")
        axes[0, 0].set_title(_which(len(order), len(labels)), loc="left")
    return figure


def score_intervals(names, values, low, high):
    """Macro-F1 of several runs with intervals, the first (the best) marked; all arrays `[R]`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.8 + 0.27 * len(names))
        _intervals(axes[0, 0], [_short(name, 26) for name in names], values, low, high, best=0)
        axes[0, 0].set_xlabel("macro-F1, 95 % interval over the rows")
    return figure


def precision_recall(labels, truth, probabilities, thresholds):
    """Precision over recall of each label, a dot at its threshold.

    Args:
        labels: names, `[L]`.
        truth, probabilities: `[N, L]`.
        thresholds: `[L]`.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities)
    shown = most_frequent(truth, MOST_LABELS_IN_CURVES)
    rows = -(-len(shown) // 2)
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.7 + 1.5 * rows, rows, 2, sharex=True, sharey=True)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, i in zip(axes.flat, shown):
            axis.set_title(f"{_short(labels[i], 16)}", loc="left", fontsize=9, pad=3)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            if not truth[:, i].any():
                axis.text(0.5, 0.5, "no true row", ha="center", va="center", color=GREY)
                continue
            precision, recall, _ = precision_recall_curve(truth[:, i], probabilities[:, i])
            at = np.unique(np.linspace(0, len(recall) - 1, MOST_POINTS_OF_A_CURVE).astype(int))
            axis.step(recall[at], precision[at], where="post", color=BLUE, linewidth=1.3)
            axis.axhline(truth[:, i].mean(), color=GREY, linewidth=0.9, linestyle=":")
            given = probabilities[:, i] >= thresholds[i]
            if given.any():
                hits = (given & (truth[:, i] == 1)).sum()
                axis.plot(hits / truth[:, i].sum(), hits / given.sum(), "D", color=ORANGE, markersize=5)
            # Above the dotted line in a corner where curves seldom come.
            area = average_precision_score(truth[:, i], probabilities[:, i])
            axis.set_title(f"AP {area:.2f}", loc="right", fontsize=8, color="#333333", pad=3)
        figure.supxlabel("recall", fontsize=9)
        figure.supylabel("precision", fontsize=9)
        figure.suptitle(f"{_which(len(shown), len(labels))}; diamond: the chosen threshold", fontsize=9)
    return figure


def co_occurrence(labels, truth, predictions):
    """How often two labels stand together: true below the diagonal, predicted above it, in rows.

    Args:
        labels: names, `[L]`.
        truth, predictions: 0/1, `[N, L]`.
    """
    shown = most_frequent(truth, MOST_LABELS_IN_MATRIX)
    truth, predictions = (np.asarray(array)[:, shown].astype(np.int64) for array in (truth, predictions))
    true, predicted = truth.T @ truth, predictions.T @ predictions
    counts = (np.tril(true, -1) + np.triu(predicted, 1)).astype(float)
    np.fill_diagonal(counts, np.nan)
    names = [_short(labels[i], 14) for i in shown]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(1.5 + 0.27 * len(shown))
        axis = axes[0, 0]
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
        axis.plot([-0.5, len(shown) - 0.5], [-0.5, len(shown) - 0.5], color=GREY, linewidth=0.8)
        axis.set_xticks(range(len(shown)), names, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(shown)), names)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        title = f"rows with both; below the diagonal true, above predicted\n{_which(len(shown), len(labels))}"
        figure.suptitle(title, fontsize=9)
    return figure


def calibration_bins(truth, probabilities, bins=10):
    """Cells by their probability, in bins of equal width.

    The expected calibration error is the mean distance of probability and truth over the bins, weighted by their cells
    (Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015).

    Args:
        truth, probabilities: `[N, L]`, all cells taken together.

    Returns:
        `(mean probability, share of true cells, number of cells, error)`: three arrays `[bins]`, NaN in the first two
        where a bin is empty, and a float.
    """
    truth, probabilities = np.asarray(truth, dtype=float).ravel(), np.asarray(probabilities, dtype=float).ravel()
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, weights=values, minlength=bins) for values in (probabilities, truth)]
    means = [np.divide(s, counts, out=np.full(bins, np.nan), where=counts > 0) for s in sums]
    return *means, counts, float(np.abs(sums[0] - sums[1]).sum() / counts.sum())


def calibration(truth, probabilities):
    """Reliability diagram of all cells `[N, L]` with the number of cells in each bin below it."""
    predicted, true, counts, error = calibration_bins(truth, probabilities)
    filled = counts > 0
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(4.6, 2, 1, sharex=True, height_ratios=[3, 1])
        upper, lower = axes[:, 0]
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=":", label="as it should be")
        hits = np.rint(true[filled] * counts[filled]).astype(int)
        of_bins = [
            binomtest(k, n).proportion_ci(0.95, "wilson") for k, n in zip(hits.tolist(), counts[filled].tolist())
        ]
        upper.vlines(predicted[filled], [one.low for one in of_bins], [one.high for one in of_bins], color=BLUE, lw=1)
        upper.plot(
            predicted[filled],
            true[filled],
            "o-",
            color=BLUE,
            markersize=4.5,
            lw=1.3,
            clip_on=False,
            label="cells, 95 %",
        )
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of them true")
        upper.set_title(f"expected calibration error {error:.3f}, all labels together", loc="left")
        upper.legend(loc="upper left", fontsize=8)
        lower.bar(np.arange(len(counts)) / len(counts), counts, width=0.92 / len(counts), align="edge", color=BLUE)
        lower.set_yscale("log")
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.set(ylim=(0.7, 2 * max(counts.max(), 1)), ylabel="cells (log)", xlabel="probability")
    return figure


def has_training_curves(log_history):
    """Whether `log_history` (of trainer_state.json) holds something to draw."""
    return any("loss" in entry or "eval_loss" in entry or "eval_f1_macro" in entry for entry in log_history)


def training_curves(log_history, best_step=None):
    """Loss, and validation macro-F1, over the optimizer's steps.

    Args:
        log_history: list of dicts, of trainer_state.json.
        best_step: step of the checkpoint that was kept, marked where known.
    """

    def series(name):
        points = [(entry["step"], entry[name]) for entry in log_history if entry.get(name) is not None]
        return np.array(points, dtype=float).reshape(-1, 2).T

    panels = [
        ("loss", [("loss", "training", BLUE, "-"), ("eval_loss", "validation", ORANGE, "o--")]),
        (
            "validation macro-F1",
            [
                ("eval_f1_macro", "at 0.5", BLUE, "s-"),
                ("eval_f1_macro_tuned", "tuned", ORANGE, "o--"),
                ("eval_f1_macro_decoded", "decoded", GREEN, "^:"),
            ],
        ),
    ]
    panels = [(title, [line for line in lines if series(line[0]).size]) for title, lines in panels]
    panels = [(title, lines) for title, lines in panels if lines]
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(0.5 + 2.2 * max(1, len(panels)), max(1, len(panels)), 1, sharex=True)
        for axis, (title, lines) in zip(axes[:, 0], panels):
            for name, label, colour, form in lines:
                steps, values = series(name)
                form = form if len(steps) > 1 else "o"
                axis.plot(steps, values, form, color=colour, linewidth=1.3, markersize=3.5, label=label)
            if best_step:
                axis.axvline(best_step, color=GREY, linewidth=0.9, linestyle=":", label="checkpoint kept")
            axis.set_title(title, loc="left")
            axis.legend(fontsize=8)
        axes[-1, 0].set_xlabel("step")
    return figure


# Saving


def save_png(figure, path):
    """Write a figure as a PNG of 200 dots an inch, atomically."""
    from utils.core.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)


def data_uri(figure):
    """A figure as an SVG inside a `data:` address, for the `src` of an image."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
