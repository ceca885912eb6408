"""A comparison as tables: in the way of a paper's results section, and flat for a CSV file."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from utils.core.files import atomic_path, quoting_for
from utils.core.shown import escape_markdown, printable
from utils.core.tables import format_bytes, format_seconds, format_share, format_table
from utils.runs.comparison import Board
from utils.runs.folder import DATA_PATHS
from utils.runs.groups import NOT_IN_KEY
from utils.scoring.bootstrap import possible_resamples
from utils.scoring.notes import choice_note
from utils.scoring.scores import AT_HALF, DECODED, SCORES, TUNED, Score, left_out, left_out_notes, shown_scores

# A header, and rows of cells below it.
Table = tuple[list[str], list[list[Any]]]
# A difference in the main score that a comparison would like to see.
GAP = 0.01
# Columns of the main score; the other scores have one, at the predictions that a run is ranked by.
COLUMNS = {AT_HALF: "at 0.5", TUNED: "tuned", DECODED: "decoded"}


def comparison_tables(
    boards: list[Board], held: bool, resamples: int, markdown: bool = False, width: int | None = None, gap: float = GAP
) -> str:
    """The tables of a comparison below each other, with what their figures are.

    Args:
        boards: of `utils.runs.comparison.make_boards`.
        held: whether the scores are on held labels.
        resamples: of the bootstrap.
        markdown: for a Markdown file instead of the terminal.
        width: characters of the terminal, where there is one.
        gap: a difference of which the text says what it takes to see it.
    """
    parts, shown = [], escape_markdown if markdown else printable
    for board in boards:
        text = caption(board, held, resamples)
        parts += [format_table(*score_rows(board, held), markdown, width)]
        parts += [fill(text, width) if width else text]
        if len(board.entries) > 1:
            parts += [f"{board.main.title} against {shown(board.entries[0].name)}, paired bootstrap on the same rows:"]
            parts += [format_table(*difference_rows(board), markdown, width)]
            notes = difference_notes(board, gap)
            parts += [fill(notes, width) if width else notes]
    return "\n\n".join(parts)


def other_scores(board: Board) -> list[Score]:
    """The scores that a comparison shows beside the main one."""
    others = tuple(score for score in SCORES if score.compared and score is not board.main)
    return list(shown_scores(others, board.one_decision))


def score_rows(board: Board, held: bool) -> Table:
    """The table of scores; `held`: on held labels, so that nothing is cross-fitted."""
    main, others = board.main, other_scores(board)
    has = {kind for entry in board.entries for kind in entry.members[0].decisions}
    columns = COLUMNS | ({TUNED: "as submitted"} if held else {})
    if any(entry.gives_one_label for entry in board.entries):
        one = all(entry.gives_one_label for entry in board.entries)
        columns = columns | {AT_HALF: "" if one else "at 0.5 or of the likeliest"}
    shown = {kind: f"{main.title} {how}".strip() for kind, how in columns.items() if kind in has}
    if main.of_probabilities:
        shown = {AT_HALF: main.title}
    # A phone or a narrow terminal shows the first columns.
    header = ["run", *shown.values(), "against the best", *(score.title for score in others)]
    header += ["model", "approach", "runs", "trainable"]
    rows = []
    for entry in board.entries:
        more = [entry.scores.get(f"{s.name}{'' if s.of_probabilities else entry.headline}") for s in others]
        rows.append(
            [entry.name, *(str(entry.scores.get(f"{main.name}{kind}", "-")) for kind in shown)]
            + [entry.verdict, *("-" if estimate is None else estimate.without_spread for estimate in more)]
            + [entry.model, entry.approach, entry.runs, format_share(entry.trainable_share)]
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
    what = (
        "Tuned: thresholds cross-fitted, each row scored with thresholds that were chosen without it; mean over "
        "several partitions of the rows."
    )
    if all(entry.gives_one_label for entry in board.entries):
        of, what = "likeliest labels", "Each text is given its likeliest label."
    elif any(entry.gives_one_label for entry in board.entries):
        of += " or likeliest labels (where a run gives each text one)"
    if held:
        of, what = (
            "submitted predictions",
            "As submitted: with the thresholds that each run has from its validation rows.",
        )
    elif note := choice_note([results for entry in board.entries for results in entry.results]):
        chosen = f" {note}"
    others = other_scores(board)
    notes = "".join(f" {note}" for note in left_out_notes(left_out(board.truth), (board.main, *others)))
    of_predictions = [score.title for score in others if not score.of_probabilities]
    of_predictions += [] if board.main.of_probabilities else ["the order"]
    scores = f"{', '.join(of_predictions[:-1])} and {of_predictions[-1]}"
    rows = f"{len(board.truth):,} {'held' if held else 'validation'} rows, {len(board.labels)} labels."
    draws = possible_resamples(len(board.truth), resamples)
    return (
        f"{rows} {what} {scores} are of the {of}. In brackets: 95 % bootstrap interval over the "
        f"rows ({draws:,} resamples, near-duplicates drawn together){_seeds_in_intervals(board)}; ±: standard "
        f"deviation over the seeds or folds named. Folds are scored together, their training times added up."
        f"{chosen}{notes}"
    )


def _seeds_in_intervals(board: Board) -> str:
    """What the intervals hold of the luck of the training."""
    several = [len(entry.members) > 1 for entry in board.entries]
    if all(several):
        return " and over the seeds"
    if any(several):
        return " and over the seeds, for a single seed with the spread of the others"
    return "; the luck of the training seed is not in it, as no run has several seeds"


def difference_notes(board: Board, gap: float = GAP) -> str:
    """What the differences from the best say, and what they cannot, in sentences.

    Args:
        board: of two entries or more.
        gap: a difference of which it says how many seeds or rows would show it.
    """
    entries, comparison = board.entries, board.comparison
    many, seeds = len(entries), [len(entry.members) for entry in entries]
    these = "like this one" if max(seeds) > 1 else "of the runs as they are"
    text = (
        "Intervals and p hold for all differences between these runs together: if all were equally good, one would be "
        f'called "worse" in about 5 % of comparisons {these}. The best looks {comparison.picked_excess():.3f} better '
        f"than it is by being the best of {many}, if they are equally good."
    )
    if max(seeds) == 1:
        text += (
            " The luck of the training seed is in none of it and not known, as no run has several seeds: another seed "
            "may turn the order round."
        )
    elif min(seeds) < max(seeds):
        text += f" Means are over {min(seeds)} to {max(seeds)} seeds, and the fewer, the more of their luck is in them."
    return f"{text} {_power_note(board, gap)}"


def _power_note(board: Board, gap: float) -> str:
    """What difference from the best would be seen, and what it takes to see `gap`."""
    comparison = board.comparison
    # The entry whose difference from the best has the middle standard error.
    middle = 1 + int(np.argsort(comparison.errors[0, 1:])[(len(board.entries) - 1) // 2])
    if comparison.errors[0, middle] == 0:
        return "Predictions that are equal cannot be told apart."
    rows, single = len(board.truth), max(len(entry.members) for entry in board.entries) == 1
    found = (
        f'"Not distinguishable" is not "the same": a true difference of {comparison.visible(0, middle):.3f} is found '
        "in 80 % of comparisons like this"
    )
    if comparison.visible(0, middle) <= gap:
        return f"{found}, so one of {gap:.3g} is seen."
    seeds = comparison.seeds_needed(0, middle, gap)
    more_rows = comparison.rows_needed(0, middle, gap, rows)
    about = "at least" if single else "about"  # the luck of the seeds, which is not known, comes on top
    ways = [f"{seeds} seeds of each" if seeds else ""]
    ways += [f"{float(f'{more_rows:.2g}'):,.0f} rows" if more_rows else ""]
    needed = " or ".join(f"{about} {way}" for way in ways if way) or "both more rows and more seeds"
    two = any(len(entry.members) == 2 for entry in board.entries)
    unsure = " A spread over 2 seeds is hardly known, and these figures with it." if two else ""
    return f"{found}; to find one of {gap:.3g} as often takes {needed}.{unsure}"


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
                "seeds": len(entry.members),
                "trainable_share": entry.trainable_share,
                "train_seconds": entry.train_seconds,
                "peak_memory_bytes": entry.peak_memory_bytes,
                "ranked_by": board.main.name + ("" if board.main.of_probabilities else entry.headline),
            }
            for score in SCORES:
                for kind in [AT_HALF] if score.of_probabilities else COLUMNS:
                    estimate = entry.scores.get(f"{score.name}{kind}")
                    for part in ("value", "low", "high", "sd", "seed_sd"):
                        key = f"{score.name}{kind}" + ("" if part == "value" else f"_{part}")
                        record[key] = None if estimate is None else getattr(estimate, part)
            record["sd_over"] = entry.main_score(board.main).over
            for part in ("value", "low", "high", "standard_error", "p_value"):
                key = "difference" if part == "value" else f"difference_{part}" if part != "p_value" else part
                record[key] = None if entry.difference is None else getattr(entry.difference, part)
            record["verdict"] = entry.verdict
            records.append(record)
    return records


def write_csv(path: str, boards: list[Board]) -> None:
    """Write the figures of a comparison, unrounded, to a CSV file."""
    with atomic_path(path) as temporary:
        frame = pd.DataFrame(csv_records(boards))
        frame.to_csv(temporary, index=False, quoting=quoting_for(frame))
