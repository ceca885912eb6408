"""A comparison as tables: in the way of a paper's results section, and flat for a CSV file."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import pandas as pd

from utils.core.files import atomic_path
from utils.core.tables import format_bytes, format_seconds, format_share, format_table
from utils.runs.comparison import COMPARED_OF_PROBABILITIES, Board
from utils.runs.folder import DATA_PATHS
from utils.runs.groups import NOT_IN_KEY
from utils.scoring.scores import AT_HALF, DECODED, SCORES, TUNED, WITH_INTERVAL, left_out, left_out_notes

# A header, and rows of cells below it.
Table = tuple[list[str], list[list[Any]]]
# Columns of macro-F1; the other scores have one, at the predictions that a run is ranked by.
COLUMNS = {AT_HALF: "macro-F1 at 0.5", TUNED: "macro-F1 tuned", DECODED: "macro-F1 decoded"}
MORE_SCORES = tuple(score for score in SCORES if score.compared and score.name != "f1_macro")


def comparison_tables(
    boards: list[Board], held: bool, resamples: int, markdown: bool = False, width: int | None = None
) -> str:
    """The tables of a comparison below each other, with what their figures are.

    Args:
        boards: of `utils.runs.comparison.make_boards`.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
        markdown: for a Markdown file instead of the terminal.
        width: characters of the terminal, where there is one.
    """
    parts = []
    for board in boards:
        text = caption(board, held, resamples)
        parts += [format_table(*score_rows(board, held), markdown, width)]
        parts += [fill(text, width) if width else text]
        if len(board.entries) > 1:
            parts += [f"macro-F1 against {board.entries[0].name}, paired bootstrap on the same rows:"]
            parts += [format_table(*difference_rows(board), markdown, width)]
    return "\n\n".join(parts)


def score_rows(board: Board, held: bool) -> Table:
    """The table of scores; `held`: on held labels, so that nothing is cross-fitted."""
    has = {kind for entry in board.entries for kind in entry.members[0].decisions}
    columns = COLUMNS | ({TUNED: "macro-F1 as submitted"} if held else {})
    shown = [kind for kind in columns if kind in has]
    header = ["run", "model", "approach", "runs", "trainable"]
    header += [*(columns[kind] for kind in shown), "against the best", *(score.title for score in MORE_SCORES)]
    rows = []
    for entry in board.entries:
        more = [entry.scores.get(f"{s.name}{'' if s.of_probabilities else entry.headline}") for s in MORE_SCORES]
        rows.append(
            [entry.name, entry.model, entry.approach, entry.runs, format_share(entry.trainable_share)]
            + [str(entry.scores.get(f"f1_macro{kind}", "-")) for kind in shown]
            + [entry.verdict, *("-" if estimate is None else estimate.value for estimate in more)]
            + [format_seconds(entry.train_seconds), format_bytes(entry.peak_memory_bytes)]
        )
    return [*header, "training", "memory"], rows


def difference_rows(board: Board) -> Table:
    """The table of the paired bootstrap against the best."""
    header = ["run", "difference", "95 % interval", "p", "verdict"]
    rows = []
    for entry in board.entries[1:]:
        by = entry.difference
        p = "< 0.001" if by.p_value < 0.001 else f"{by.p_value:.3f}"
        rows.append([entry.name, f"{by.value:+.3f}", f"[{by.low:+.3f}, {by.high:+.3f}]", p, entry.verdict])
    return header, rows


def caption(board: Board, held: bool, resamples: int) -> str:
    """What the figures of a board are, in sentences.

    Args:
        board: whose figures.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
    """
    of, chosen = "tuned predictions (at 0.5 where thresholds are fixed)", ""
    what = "Tuned: thresholds cross-fitted, each row scored with thresholds that were chosen without it."
    if held:
        of, what = (
            "submitted predictions",
            "As submitted: with the thresholds that each run has from its validation rows.",
        )
    elif any(entry.arguments.get("load_best_model_at_end") for entry in board.entries):
        chosen = " Checkpoints were chosen on these rows, so expect a little less on new ones."
    notes = "".join(f" {note}" for note in left_out_notes(left_out(board.truth), MORE_SCORES))
    rows = f"{len(board.truth):,} {'held' if held else 'validation'} rows, {len(board.labels)} labels."
    return (
        f"{rows} {what} micro-F1, Jaccard and the order are of the {of}. In brackets: 95 % bootstrap interval over the "
        f"rows ({resamples:,} resamples); ±: standard deviation over seeds or folds. Folds are scored together, their "
        f"training times added up.{chosen}{notes}"
    )


def differing_rows(board: Board) -> Table:
    """The table of the arguments in which the runs differ; no rows where they do not."""
    with_arguments = [entry for entry in board.entries if entry.arguments]
    names = {
        name: None for entry in with_arguments for name in entry.arguments if name not in (*NOT_IN_KEY, *DATA_PATHS)
    }
    rows = []
    for name in names:
        values = [entry.arguments.get(name) for entry in with_arguments]
        if any(value != values[0] for value in values):
            rows.append([name, *(text if len(text) <= 40 else f"{text[:39]}…" for text in map(str, values))])
    return ["argument", *(entry.name for entry in with_arguments)], rows


def csv_records(boards: list[Board]) -> list[dict[str, Any]]:
    """A flat record for each entry, figures unrounded, for a CSV file."""
    records = []
    for number, board in enumerate(boards, start=1):
        for entry in board.entries:
            record = {
                "row_set": number,
                "rows": len(board.truth),
                "run": entry.name,
                "folders": " ".join(entry.folders),
                "model": entry.model,
                "approach": entry.approach,
                "runs": entry.runs,
                "trainable_share": entry.trainable_share,
                "train_seconds": entry.train_seconds,
                "peak_memory_bytes": entry.peak_memory_bytes,
                "ranked_by": f"f1_macro{entry.headline}",
            }
            for kind in (AT_HALF, TUNED, DECODED):
                for score in WITH_INTERVAL:
                    estimate = entry.scores.get(f"{score.name}{kind}")
                    for part in ("value", "low", "high", "sd"):
                        key = f"{score.name}{kind}" + ("" if part == "value" else f"_{part}")
                        record[key] = None if estimate is None else getattr(estimate, part)
            for score in COMPARED_OF_PROBABILITIES:
                estimate = entry.scores.get(score.name)
                for part, key in {"value": score.name, "sd": f"{score.name}_sd"}.items():
                    record[key] = None if estimate is None else getattr(estimate, part)
            for part in ("value", "low", "high", "p_value"):
                key = "difference" if part == "value" else f"difference_{part}" if part != "p_value" else part
                record[key] = None if entry.difference is None else getattr(entry.difference, part)
            record["verdict"] = entry.verdict
            records.append(record)
    return records


def write_csv(path: str, boards: list[Board]) -> None:
    """Write the figures of a comparison, unrounded, to a CSV file."""
    with atomic_path(path) as temporary:
        pd.DataFrame(csv_records(boards)).to_csv(temporary, index=False)
