"""A comparison as tables: in the way of a paper's results section, and flat for a CSV file."""

from utils.core.tables import format_bytes, format_seconds, format_share
from utils.runs.finished import AT_HALF, DECODED, TUNED
from utils.runs.folder import DATA_PATHS
from utils.runs.groups import NOT_IN_KEY
from utils.scoring.bootstrap import SCORES


def score_rows(board, held):
    """`(header, rows)` of the table of scores; `held`: on held labels, so that nothing is cross-fitted."""
    has = {suffix for entry in board.entries for suffix in entry.members[0].predictions}
    columns = {AT_HALF: "macro-F1 at 0.5", TUNED: "macro-F1 tuned", DECODED: "macro-F1 decoded"}
    if held:
        columns[TUNED] = "macro-F1 as submitted"
    shown = [suffix for suffix in columns if suffix in has]
    header = ["run", "model", "approach", "runs", "trainable"]
    header += [columns[suffix] for suffix in shown] + ["against the best", "micro-F1", "Jaccard", "training", "memory"]
    rows = []
    for entry in board.entries:
        rest = [entry.scores[f"{name}{entry.headline}"].value for name in ("f1_micro", "jaccard")]
        rows.append(
            [entry.name, entry.model, entry.approach, entry.runs, format_share(entry.trainable_share)]
            + [str(entry.scores.get(f"f1_macro{suffix}", "-")) for suffix in shown]
            + [entry.verdict, *rest, format_seconds(entry.train_seconds), format_bytes(entry.peak_memory_bytes)]
        )
    return header, rows


def difference_rows(board):
    """`(header, rows)` of the paired bootstrap against the best."""
    header = ["run", "difference", "95 % interval", "p", "verdict"]
    rows = []
    for entry in board.entries[1:]:
        by = entry.difference
        p = "< 0.001" if by.p_value < 0.001 else f"{by.p_value:.3f}"
        rows.append([entry.name, f"{by.value:+.3f}", f"[{by.low:+.3f}, {by.high:+.3f}]", p, entry.verdict])
    return header, rows


def caption(board, held, resamples):
    """What the figures of a board are, in sentences."""
    of, chosen = "tuned predictions (at 0.5 where thresholds are fixed)", ""
    what = "Tuned: thresholds cross-fitted, each row scored with thresholds that were chosen without it."
    if held:
        of, what = (
            "submitted predictions",
            "As submitted: with the thresholds that each run has from its validation rows.",
        )
    elif any(entry.arguments.get("load_best_model_at_end") for entry in board.entries):
        chosen = " Checkpoints were chosen on these rows, so expect a little less on new ones."
    return (
        f"{board.rows:,} {'held' if held else 'validation'} rows, {len(board.labels)} labels. {what} micro-F1, Jaccard "
        f"and the order are of the {of}. In brackets: 95 % bootstrap interval over the rows ({resamples:,} resamples); "
        f"±: standard deviation over seeds or folds. Folds are scored together, their training times added up.{chosen}"
    )


def differing_rows(board):
    """`(header, rows)` of the arguments in which the runs differ; no rows where they do not."""
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


def csv_records(boards):
    """A flat record for each entry, figures unrounded, for a CSV file."""
    records = []
    for number, board in enumerate(boards, start=1):
        for entry in board.entries:
            record = {
                "row_set": number,
                "rows": board.rows,
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
            for suffix in (AT_HALF, TUNED, DECODED):
                for name in SCORES:
                    score = entry.scores.get(f"{name}{suffix}")
                    for part in ("value", "low", "high", "sd"):
                        key = f"{name}{suffix}" + ("" if part == "value" else f"_{part}")
                        record[key] = None if score is None else getattr(score, part)
            for part in ("value", "low", "high", "p_value"):
                key = "difference" if part == "value" else f"difference_{part}" if part != "p_value" else part
                record[key] = None if entry.difference is None else getattr(entry.difference, part)
            record["verdict"] = entry.verdict
            records.append(record)
    return records
