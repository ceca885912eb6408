"""report.html: scores, pictures and mistakes of a run, or of several side by side, on one page that opens offline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from utils.core.files import read_json_object, read_part, write_text
from utils.core.tables import format_bytes, format_cell, format_seconds, format_share
from utils.doctor.baselines import baseline_table
from utils.doctor.finding import Diagnosis
from utils.doctor.mislabelled import find_suspects
from utils.models.approaches import describe_approach
from utils.report import pictures
from utils.report.tables import GAP, caption, difference_notes, difference_rows, differing_rows, score_rows
from utils.runs.checkpoints import STATE_FILE
from utils.runs.comparison import Board
from utils.runs.finished import FinishedRun, model_name, read_run, trainable_share
from utils.runs.folder import PICTURES_FOLDER, REPORT_FILE
from utils.runs.manifest import renew_entries
from utils.scoring.bootstrap import (
    OF_LABELS,
    RESAMPLES,
    Drawn,
    interval,
    plain_scores,
    possible_resamples,
    resample_each,
)
from utils.scoring.notes import choice_note, ends_of_intervals, leak_note, time_note
from utils.scoring.predictions import Predictions
from utils.scoring.reliability import calibrate_out_of_sample, reliability
from utils.scoring.scores import TUNED, by_name, known_cells, left_out_notes, summary_rows, with_interval

MISTAKES = 20
SUSPECTS = 30


@dataclass
class Picture:
    """An image of the page: `source` is a `data:` address."""

    source: str
    title: str
    caption: str


@dataclass
class Section:
    """A part of the page: paragraphs, a table, pictures, and paragraphs below them, each if there are any."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    below: list[str] = field(default_factory=list)  # what the figures are: they themselves come first
    kind: str = "names"  # of the table: figures behind names; "prose", texts that wrap; "pairs", a name and a value


def render(title: str, lead: str, sections: list[Section]) -> str:
    """The page as HTML. Everything put into it is escaped: texts of the data may hold markup.

    Args:
        title: of the page.
        lead: the line below it.
        sections: its parts.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
    )
    for section in sections:
        section.rows = [[format_cell(cell) for cell in row] for row in section.rows]
        if section.kind == "names":  # such tables are wide: intervals go below their scores
            section.rows = [[name, *(cell.replace(" [", "\n[") for cell in cells)] for name, *cells in section.rows]
    return environment.get_template("report.html.jinja").render(title=title, lead=lead, sections=sections)


# One run


def mistakes_rows(predictions: Predictions, decided: np.ndarray, most: int = MISTAKES) -> list[list[str]]:
    """The most confident mistakes: rows in which a cell decided wrongly has a probability farthest from the truth.

    Args:
        predictions: N rows with texts and truth.
        decided: their 0/1 predictions `[N, L]`.
        most: rows to return at most.

    Returns:
        rows `[text, true labels, predicted labels, the surest mistake]`, the surest first, each text once.
    """
    labels, truth, probabilities = predictions.labels, predictions.truth, predictions.probabilities
    error = np.where((decided != truth) & known_cells(truth), np.abs(probabilities - truth), -1.0)

    def names(cells: np.ndarray) -> str:
        return ", ".join(label for label, yes in zip(labels, cells) if yes == 1) or "(none)"

    rows = []
    for row in np.argsort(-error.max(axis=1), kind="stable")[:most]:
        column = int(error[row].argmax())
        if error[row, column] < 0:
            break
        how = "missed" if truth[row, column] else "wrongly given"
        surest = f"{labels[column]} {how} at {probabilities[row, column]:.2f}"
        rows.append([predictions.texts[row], names(truth[row]), names(decided[row]), surest])
    return rows


def _score_section(run: FinishedRun, drawn: dict[str, Drawn]) -> Section:
    """Scores at 0.5, tuned and decoded, with their intervals."""
    metrics = {name.removeprefix("eval_"): value for name, value in run.results.items()}
    metrics |= ends_of_intervals(drawn, metrics, run.task.labels)
    draws = possible_resamples(len(run.predictions), RESAMPLES)
    paragraphs = [
        f"On {len(run.predictions):,} validation rows. In brackets: 95 % bootstrap interval over the rows ({draws:,} "
        "resamples, near-duplicates drawn together); the luck of the training seed is not in it."
    ]
    if TUNED in drawn:
        paragraphs.append(
            "Tuned: each row is scored with thresholds that were chosen without it; mean over several partitions."
        )
    paragraphs += left_out_notes(metrics)
    paragraphs += filter(None, [leak_note(run.results), choice_note([run.results]), time_note(run.results)])
    return Section("Scores", [], *summary_rows(metrics, run.thresholds.rule.best_by), below=paragraphs)


def _label_section(run: FinishedRun, drawn: dict[str, Drawn]) -> Section:
    """Scores of each label with their intervals."""
    support = np.nansum(run.predictions.truth, axis=0)
    metrics = {name.removeprefix("eval_"): value for name, value in run.results.items()}
    metrics |= ends_of_intervals(drawn, metrics, run.task.labels)
    rows = []
    for i, label in enumerate(run.task.labels):
        f1, *others = (with_interval(metrics, f"{name}/{label}") for name in ("f1", *OF_LABELS[:-1]))
        rows.append([label, f1, *others, int(support[i])])
    header = ["label", "F1", "precision", "recall", "support"]
    known = known_cells(run.predictions.truth)
    if not known.all():
        rows = [[*row, int(count)] for row, count in zip(rows, known.sum(axis=0))]
        header.append("annotated")
    note = f"Precision, recall and F1 {_how_decided(run)}."
    if not run.task.single_label:
        rows = [[*row, float(threshold)] for row, threshold in zip(rows, run.thresholds.values)]
        header.append("threshold")
        note += f" The threshold is the one for new rows ({run.thresholds.rule.strategy})."
    return Section("Labels", [], header, rows, below=[note])


def _how_decided(run: FinishedRun) -> str:
    """How probabilities became the predictions that a run is judged by, in words."""
    if run.task.single_label:
        return "where each text is given its likeliest label"
    return "at tuned, cross-fitted thresholds" if run.headline == TUNED else "at threshold 0.5"


def _draw(run: FinishedRun, f1: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, tuple[Figure, str, str]]:
    """`{file name: (figure, title, caption)}`; F1 of the labels and its intervals are `[L]`.

    Labels together are counted in the first partition of cross-fitted predictions.
    """
    labels, truth, probabilities = run.task.labels, run.predictions.truth, run.predictions.probabilities
    main, groups = by_name(run.thresholds.rule.best_by), run.predictions.near_duplicates
    weighted = " Training with pos_weight moves them up on purpose."
    out_of_sample = (
        " Calibrated: what --calibrate of make_submission.py and predict.py makes of them, each row by curves that "
        "were fitted without it."
    )
    calibrated = None if run.task.single_label else calibrate_out_of_sample(probabilities, truth, groups)
    decided = run.decisions[run.headline][0]
    drawn = {
        "label_f1": (
            pictures.label_f1(labels, f1, low, high, np.nansum(truth, axis=0)),
            "F1 of each label",
            "The fewer true rows, the wider the interval.",
        ),
        "precision_recall": (
            pictures.precision_recall(
                labels, truth, probabilities, run.thresholds.values, run.predictions.near_duplicates
            ),
            "Precision and recall",
            "AP is the area under the curve, ± half of its 95 % interval; dotted, the share of true rows, which is the "
            "precision of guessing."
            + (
                " The thresholds were chosen on these rows, so their diamonds are a little too good."
                if not run.task.single_label
                else ""
            ),
        ),
        "calibration": (
            pictures.calibration(
                reliability(truth, probabilities, groups),
                None if calibrated is None else reliability(truth, calibrated, groups),
            ),
            "Calibration",
            "Points below the dotted line: probabilities too high."
            + (weighted if run.arguments.get("pos_weight", "none") != "none" else "")
            + (out_of_sample if calibrated is not None else ""),
        ),
    }
    if run.task.single_label:
        drawn["confusion"] = (
            pictures.confusion(labels, truth, decided),
            "Labels taken for each other",
            "Rows of the picture are true labels, columns the ones given: what is off the diagonal is wrong.",
        )
    elif len(labels) > 1:
        drawn["co_occurrence"] = (
            pictures.co_occurrence(labels, truth, decided),
            "Labels together",
            "A cell and its mirror image across the diagonal should hold the same number.",
        )
    is_logged = (Path(run.folder) / STATE_FILE).is_file()
    history = read_part(run.folder, STATE_FILE, _log_history) if is_logged else []
    if pictures.has_training_curves(history):
        drawn["training_curves"] = (
            pictures.training_curves(history, run.results.get("best_checkpoint_step"), main),
            "Training",
            "The loss in training is a mean over the steps since the point before. Shaded: the 95 % interval of "
            f"{main.title} over the rows.",
        )
    return drawn


def _log_history(path: Path) -> list[dict[str, Any]]:
    """What Trainer logged, by its state file.

    Raises:
        TypeError: for entries that are none.
    """
    history = read_json_object(path).get("log_history", [])
    if not (isinstance(history, list) and all(isinstance(entry, dict) for entry in history)):
        raise TypeError("its log_history is no list of entries")
    return history


def _save_pictures(run: FinishedRun, f1: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Picture]:
    """Write `pictures/*.png` into the run's folder, and give them for the page."""
    images = []
    for name, (figure, title, text) in _draw(run, f1, low, high).items():
        pictures.save_png(figure, Path(run.folder) / PICTURES_FOLDER / f"{name}.png")
        figure.set_layout_engine("none")  # laid out once is enough, and saves a fifth of the time
        images.append(Picture(pictures.data_uri(figure), title, text))
    return images


def _mistakes_section(run: FinishedRun) -> Section:
    """The most confident mistakes; of cross-fitted predictions those of the first partition."""
    rows = mistakes_rows(run.predictions, run.decisions[run.headline][0])
    note = "There are none."
    if rows:
        note = (
            f"The {len(rows)} validation rows with the most confident mistakes, {_how_decided(run)}: the label decided "
            "wrongly with the probability farthest from the truth."
        )
    header = ["text", "true", "predicted", "surest mistake"]
    return Section("Most confident mistakes", [note], header, rows, kind="prose")


def _doctor_sections(diagnosis: Diagnosis) -> list[Section]:
    """What the doctor says of a run, and how it compares with simple methods."""
    findings = [
        [". ".join(filter(None, (one.what, diagnosis.consequences(one)))), one.severity, one.remedy]
        for one in diagnosis.findings
    ]
    header = ["what is wrong", "how bad", "what to do"]
    sections = [Section("What the doctor says", [diagnosis.headline], header, findings, kind="prose")]
    if diagnosis.baselines:
        note = (
            "Labels given without reading the text, as many as do best for each score, and a linear model that was "
            "trained on the same rows in seconds. In brackets: 95 % bootstrap intervals."
        )
        sections.append(Section("Against simple methods", [note], *baseline_table(diagnosis.baselines)))
    return sections


def suspect_rows(predictions: Predictions, most: int = SUSPECTS) -> list[list[str]]:
    """The cells that look most like mistakes: `[text, what the label says, probability of what it says, id]`.

    Args:
        predictions: N rows with texts and truth, predicted by a model that has not seen them.
        most: cells to return at most.
    """
    suspects = find_suspects(predictions.truth, predictions.probabilities)
    rows = []
    for row, column, confidence in list(zip(suspects.rows, suspects.columns, suspects.confidence))[:most]:
        says = f"{predictions.labels[column]}: {'yes' if predictions.truth[row, column] else 'no'}"
        rows.append([predictions.texts[row], says, f"{confidence:.3f}", predictions.ids[row]])
    return rows


def _suspects_section(run: FinishedRun) -> Section:
    """The cells of the validation rows that look most like mistakes."""
    rows = suspect_rows(run.predictions)
    note = "No label looks like a mistake."
    if rows:
        note = (
            f"The {len(rows)} labels of which the model, which has not seen these rows, is most confidently of another "
            "mind (confident learning: Northcutt, Jiang and Chuang, 2021). Some are the model's mistakes, some the "
            "labels'; only reading tells."
        )
    header = ["text", "the label says", "probability of that", "id"]
    return Section("Labels that look like mistakes", [note], header, rows, kind="prose")


def write_run_report(folder: str | Path) -> Path:
    """Write `report.html` and `pictures/*.png` of a finished run into its folder, from what is in it.

    Returns:
        path of the report.

    Raises:
        UserError: for a folder that is no finished run.
    """
    run = read_run(folder)
    truth = run.predictions.truth
    drawn = resample_each(truth, run.decisions, run.predictions.probabilities, run.predictions.near_duplicates)
    f1 = plain_scores(truth, run.decisions[run.headline])["f1"]
    low, high = interval(drawn[run.headline]["f1"], f1)
    images = _save_pictures(run, f1, low, high)

    arguments = [[name, str(value)] for name, value in sorted(run.arguments.items()) if value is not None]
    facts = {
        "trainable": format_share(trainable_share(run.results)),
        "training rows": f"{run.task.train_rows:,}",
        "training time": format_seconds(run.results.get("train_runtime")),
        "peak memory": format_bytes(run.results.get("peak_memory_bytes")),
    }
    lead = f"{model_name(run.arguments)}, {describe_approach(run.arguments)}; "
    lead += "; ".join(f"{name} {value}" for name, value in facts.items() if value != "-")
    diagnosis = Diagnosis.load(folder)
    checks = [[check.title, check.seen] for check in diagnosis.checks] if diagnosis else []
    sections = [
        *(_doctor_sections(diagnosis) if diagnosis else []),
        _score_section(run, drawn),
        _label_section(run, drawn),
        Section("Pictures", pictures=images),
        _mistakes_section(run),
        _suspects_section(run),
        *([Section("What was looked at", header=["check", "seen"], rows=checks, kind="pairs")] if checks else []),
        Section("Arguments", header=["argument", "value"], rows=arguments, kind="pairs"),
    ]
    path = Path(folder) / REPORT_FILE
    write_text(path, render(Path(folder).resolve().name, lead, sections))
    made = [
        REPORT_FILE,
        *(f"{PICTURES_FOLDER}/{picture.name}" for picture in Path(folder, PICTURES_FOLDER).glob("*.png")),
    ]
    renew_entries(folder, made)
    return path


# Several runs


def write_comparison_report(
    path: str, boards: list[Board], notes: list[str], held: bool, resamples: int, gap: float = GAP
) -> None:
    """Write a comparison as one page.

    Args:
        path: the file.
        boards: of `utils.runs.comparison.make_boards`.
        notes: lines on what was skipped or kept apart.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
        gap: a difference of which the page says what it takes to see it.
    """
    sections = []
    for number, board in enumerate(boards, start=1):
        which = f", row set {number} of {len(boards)}" if len(boards) > 1 else ""
        sections += _board_sections(board, which, held, resamples, gap)
    if notes:
        sections.append(Section("Left out or kept apart", notes))
    entries = [entry for board in boards for entry in board.entries]
    runs, files = sum(len(entry.folders) for entry in entries), sum(not entry.folders for entry in entries)
    counts = [f"{number} {what}" for number, what in ((runs, "runs"), (files, "submission files")) if number]
    write_text(path, render("Comparison of runs", f"{' and '.join(counts)}, the best first.", sections))


def scores_picture(board: Board) -> Figure:
    """The main score of the runs of a board with intervals."""
    scores = board.main_scores
    values, low, high = ([getattr(score, part) for score in scores] for part in ("value", "low", "high"))
    over = "rows" if all(score.spread is None for score in scores) else "rows and the seeds"
    names = [entry.name for entry in board.entries]
    return pictures.score_intervals(names, values, low, high, f"{board.main.title}, 95 % interval over the {over}")


def _board_sections(board: Board, which: str, held: bool, resamples: int, gap: float) -> list[Section]:
    """The sections of runs that were scored on the same rows.

    Args:
        board: the runs.
        which: of several such sets of rows, for the titles.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
        gap: see `difference_notes`.
    """
    entries = board.entries
    sections = [Section(f"Scores{which}", [], *score_rows(board, held), below=[caption(board, held, resamples)])]
    if len(entries) == 1:
        return sections
    text = "Whether intervals overlap does not say whether two runs differ: the paired comparison below does."
    sections[-1].pictures = [Picture(pictures.data_uri(scores_picture(board)), board.main.title, text)]
    note = f"Paired bootstrap: the same draws of rows for both. {difference_notes(board, gap)}"
    title = f"{board.main.title} against {entries[0].name}{which}"
    sections.append(Section(title, [], *difference_rows(board), below=[note]))
    header = ["label", "support", *(entry.name for entry in entries)]
    support = np.nansum(board.truth, axis=0)
    rows = [
        [label, int(support[i]), *("{:.3f} [{:.3f}, {:.3f}]".format(*entry.label_f1[:, i]) for entry in entries)]
        for i, label in enumerate(board.labels)
    ]
    sections.append(Section(f"F1 of each label{which}", [], header, rows))
    header, rows = differing_rows(board)
    if rows:
        sections.append(Section(f"Arguments in which the runs differ{which}", [], header, rows))
    return sections
