"""report.html: scores, labels, pictures and mistakes of a run, or of several side by side; one page that opens offline.

    python -m utils.report outputs/run

makes the report and the pictures of a finished run again, from its folder alone.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.core.errors import UserError, exit_on_user_error
from utils.core.files import write_text
from utils.core.tables import format_bytes, format_cell, format_seconds, format_share
from utils.report import pictures
from utils.report.tables import caption, difference_rows, differing_rows, score_rows
from utils.runs.finished import AT_HALF, DECODED, TUNED, approach, model_name, read_run, trainable_share
from utils.runs.folder import read_json
from utils.scoring.bootstrap import interval, plain_scores, resample
from utils.scoring.evaluation import PER_LABEL, SUMMARY

REPORT_FILE = "report.html"
PICTURES_FOLDER = "pictures"
RESAMPLES = 2000
MISTAKES = 20


@dataclass
class Picture:
    """An image of the page: `source` is a `data:` address."""

    source: str
    title: str
    caption: str


@dataclass
class Section:
    """A part of the page: paragraphs, then a table, then pictures, each if there are any."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    kind: str = "names"  # of the table: figures behind names; "prose", texts that wrap; "pairs", a name and a value


def render(title, lead, sections):
    """The page as HTML. Everything put into it is escaped: texts of the data may hold markup."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
    )
    for section in sections:
        section.rows = [[format_cell(cell) for cell in row] for row in section.rows]
        if section.kind == "names":  # such tables are wide: intervals go below their scores
            for here, there in {" [": "\n[", "label generation, ": "label generation,\n"}.items():
                section.rows = [[name, *(cell.replace(here, there) for cell in cells)] for name, *cells in section.rows]
    return environment.get_template("report.html.jinja").render(title=title, lead=lead, sections=sections)


# One run


def mistakes_rows(texts, labels, truth, probabilities, predictions, most=MISTAKES):
    """The most confident mistakes: rows in which a cell decided wrongly has a probability farthest from the truth.

    Args:
        texts: `[N]`; labels: `[L]`; truth, probabilities, predictions: `[N, L]`.

    Returns:
        rows `[text, true labels, predicted labels, the surest mistake]`, the surest first, each text once.
    """
    error = np.where(predictions != truth, np.abs(probabilities - truth), -1.0)

    def names(cells):
        return ", ".join(label for label, yes in zip(labels, cells) if yes) or "(none)"

    rows = []
    for row in np.argsort(-error.max(axis=1), kind="stable")[:most]:
        column = int(error[row].argmax())
        if error[row, column] < 0:
            break
        how = "missed" if truth[row, column] else "wrongly given"
        surest = f"{labels[column]} {how} at {probabilities[row, column]:.2f}"
        rows.append([texts[row], names(truth[row]), names(predictions[row]), surest])
    return rows


def _score_section(run, drawn):
    """Summary scores at 0.5, tuned and decoded, intervals where the bootstrap gives them."""
    metrics = {name.removeprefix("eval_"): value for name, value in run.results.items()}
    titles = {AT_HALF: "at 0.5", TUNED: "tuned (cross-fitted)", DECODED: "decoded"}
    suffixes = [suffix for suffix in titles if f"f1_macro{suffix}" in metrics and suffix in drawn]

    def cell(name, suffix):
        value = metrics.get(f"{name}{suffix}")
        if value is None or not hasattr(drawn[suffix], name):
            return "-" if value is None else value
        low, high = interval(getattr(drawn[suffix], name))
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    rows = [[title, *(cell(name, suffix) for suffix in suffixes)] for name, title in SUMMARY.items()]
    for name, title in (("map", "mAP"), ("lrap", "LRAP")):
        if name in metrics:
            rows.append([title, metrics[name], *["same"] * (len(suffixes) - 1)])
    paragraphs = [
        f"On {len(run.ids):,} validation rows. In brackets: 95 % bootstrap interval over the rows ({RESAMPLES:,} "
        "resamples); the luck of the training seed is not in it."
    ]
    if TUNED in suffixes:
        paragraphs.append("Tuned: each row is scored with thresholds that were chosen without it.")
        tuned = plain_scores(run.truth, run.predictions[TUNED])["f1_macro"]
        if abs(tuned - metrics["f1_macro_tuned"]) > 1e-6:
            paragraphs.append(
                f"Cross-fitted anew without the texts, macro-F1 tuned is {tuned:.3f}: intervals are of that. Runs of "
                "before texts were saved with the predictions do not know their near-duplicates."
            )
    if run.arguments.get("load_best_model_at_end"):
        paragraphs.append("The checkpoint was chosen on the same rows, so expect a little less on new ones.")
    return Section("Scores", paragraphs, ["score", *(titles[suffix] for suffix in suffixes)], rows)


def _label_section(run, low, high):
    labels = run.task.labels
    how = "tuned thresholds, cross-fitted" if run.headline == TUNED else "threshold 0.5"

    def cells(i, label):
        values = {name: run.results.get(f"eval_{name}/{label}", "-") for name in PER_LABEL}
        yield from (label, values["precision"], values["recall"], values["f1"])
        yield f"[{low[i]:.3f}, {high[i]:.3f}]"
        yield int(run.truth[:, i].sum())
        yield float(run.thresholds[i])

    header = ["label", "precision", "recall", "F1", "95 % interval", "support", "threshold"]
    note = f"Precision, recall and F1 at {how}. The threshold is the one for new rows ({run.strategy})."
    return Section("Labels", [note], header, [list(cells(i, label)) for i, label in enumerate(labels)])


def _draw(run, f1, low, high):
    """`{file name: (figure, title, caption)}` of a run."""
    labels, predictions = run.task.labels, run.predictions[run.headline]
    weighted = " Training with pos_weight moves them up on purpose."
    drawn = {
        "label_f1": (
            pictures.label_f1(labels, f1, low, high, run.truth.sum(axis=0)),
            "F1 of each label",
            "The fewer true rows, the wider the interval.",
        ),
        "precision_recall": (
            pictures.precision_recall(labels, run.truth, run.probabilities, run.thresholds),
            "Precision and recall",
            "AP is the area under the curve; dotted, the share of true rows, which is the precision of guessing. The "
            "thresholds were chosen on these rows, so their diamonds are a little too good.",
        ),
        "co_occurrence": (
            pictures.co_occurrence(labels, run.truth, predictions),
            "Labels together",
            "A cell and its mirror image across the diagonal should hold the same number.",
        ),
        "calibration": (
            pictures.calibration(run.truth, run.probabilities),
            "Calibration",
            "Points below the dotted line: probabilities too high."
            + (weighted if run.arguments.get("pos_weight", "none") != "none" else ""),
        ),
    }
    state_file = Path(run.folder) / "trainer_state.json"
    state = read_json(state_file) if state_file.is_file() else {}
    if pictures.has_training_curves(state.get("log_history", [])):
        drawn["training_curves"] = (
            pictures.training_curves(state["log_history"], run.results.get("best_checkpoint_step")),
            "Training",
            "The loss in training is a mean over the steps since the point before.",
        )
    return drawn


def write_run_report(folder):
    """Write `report.html` and `pictures/*.png` of a finished run into its folder, from what is in it.

    Returns:
        path of the report.

    Raises:
        UserError: for a folder that is no finished run.
    """
    run = read_run(folder)
    drawn = {suffix: resample(run.truth, array, RESAMPLES, seed=0) for suffix, array in run.predictions.items()}
    low, high = interval(drawn[run.headline].f1)
    f1 = plain_scores(run.truth, run.predictions[run.headline])["f1"]

    images = []
    for name, (figure, title, text) in _draw(run, f1, low, high).items():
        pictures.save_png(figure, Path(folder) / PICTURES_FOLDER / f"{name}.png")
        figure.set_layout_engine("none")  # laid out once is enough, and saves a fifth of the time
        images.append(Picture(pictures.data_uri(figure), title, text))

    how = "tuned, cross-fitted thresholds" if run.headline == TUNED else "threshold 0.5"
    mistakes = Section("Most confident mistakes", kind="prose")
    if run.texts is None:
        mistakes.paragraphs = ["This run's predictions hold no texts, so its mistakes cannot be shown. Train it anew."]
    else:
        predictions = run.predictions[run.headline]
        mistakes.rows = mistakes_rows(run.texts, run.task.labels, run.truth, run.probabilities, predictions)
        mistakes.header = ["text", "true", "predicted", "surest mistake"]
        mistakes.paragraphs = [
            f"The {len(mistakes.rows)} validation rows with the most confident mistakes, at {how}: the label decided "
            "wrongly with the probability farthest from the truth."
            if mistakes.rows
            else "There are none."
        ]

    arguments = [[name, str(value)] for name, value in sorted(run.arguments.items()) if value is not None]
    facts = {
        "trainable": format_share(trainable_share(run.results)),
        "training rows": f"{run.task.train_rows:,}",
        "training time": format_seconds(run.results.get("train_runtime")),
        "peak memory": format_bytes(run.results.get("peak_memory_bytes")),
    }
    lead = f"{model_name(run.arguments)}, {approach(run.arguments)}; "
    lead += "; ".join(f"{name} {value}" for name, value in facts.items() if value != "-")
    sections = [
        _score_section(run, drawn),
        _label_section(run, low, high),
        Section("Pictures", pictures=images),
        mistakes,
        Section("Arguments", header=["argument", "value"], rows=arguments, kind="pairs"),
    ]
    path = Path(folder) / REPORT_FILE
    write_text(path, render(Path(folder).resolve().name, lead, sections))
    return path


# Several runs


def write_comparison_report(path, boards, notes, held, resamples):
    """Write a comparison as one page.

    Args:
        path: the file.
        boards: of `utils.runs.comparison.make_boards`.
        notes: lines on what was skipped or kept apart.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
    """
    sections = []
    for number, board in enumerate(boards, start=1):
        which = f", row set {number} of {len(boards)}" if len(boards) > 1 else ""
        entries = board.entries
        sections.append(Section(f"Scores{which}", [caption(board, held, resamples)], *score_rows(board, held)))
        if len(entries) == 1:
            continue
        scores = [entry.headline_score for entry in entries]
        figure = pictures.score_intervals(
            [entry.name for entry in entries],
            *([getattr(score, part) for score in scores] for part in ("value", "low", "high")),
        )
        text = "Intervals that overlap do not say whether a difference is noise: the paired comparison below does."
        sections[-1].pictures = [Picture(pictures.data_uri(figure), "Macro-F1", text)]
        note = (
            "Paired bootstrap: the same draws of rows for both. Noise: 0 lies in the interval. p is two-sided and not "
            "corrected for the number of runs; the luck of the training seed is not in it."
        )
        sections.append(Section(f"macro-F1 against {entries[0].name}{which}", [note], *difference_rows(board)))
        header = ["label", "support", *(entry.name for entry in entries)]
        support = entries[0].members[0].truth.sum(axis=0)
        rows = [
            [label, int(support[i]), *(float(entry.label_f1[i]) for entry in entries)]
            for i, label in enumerate(board.labels)
        ]
        sections.append(Section(f"F1 of each label{which}", [], header, rows))
        header, rows = differing_rows(board)
        if rows:
            sections.append(Section(f"Arguments in which the runs differ{which}", [], header, rows))
    if notes:
        sections.append(Section("Left out or kept apart", notes))
    entries = [entry for board in boards for entry in board.entries]
    runs, files = sum(len(entry.folders) for entry in entries), sum(not entry.folders for entry in entries)
    counts = [f"{number} {what}" for number, what in ((runs, "runs"), (files, "submission files")) if number]
    write_text(path, render("Comparison of runs", f"{' and '.join(counts)}, the best first.", sections))


@exit_on_user_error
def main(argv=None):
    """Make the reports of the run folders named."""
    folders = sys.argv[1:] if argv is None else argv
    if not folders or any(word.startswith("-") for word in folders):
        if set(folders) & {"-h", "--help"}:
            print(__doc__)
            return
        raise UserError("name the folders of finished runs: python -m utils.report outputs/run")
    for folder in folders:
        print(f"report: {write_run_report(folder)}")
