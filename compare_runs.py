"""Compare finished runs: a table of scores with intervals, and whether a difference is more than noise.

    python compare_runs.py outputs/*
    python compare_runs.py outputs/* --markdown results.md --csv results.csv --html results.html
    python compare_runs.py outputs/* submission.csv --truth test_labels.csv --test_file test.csv

Run folders come first, then flags. Runs that differ in seed alone become one row with mean and standard deviation;
folds of one run become one row with the score of their out-of-fold predictions together. With --truth, runs and
submission files are scored on held labels instead.
"""

import sys
from dataclasses import dataclass
from itertools import takewhile
from shutil import get_terminal_size
from textwrap import fill

from utils.core.errors import UserError, exit_on_user_error
from utils.core.parser import ArgumentParser, option, print_help


@dataclass
class CompareArguments:
    """What to compare, on what, and where the tables go."""

    runs: list[str] = option(None, "folders of finished runs; with --truth submission files too")
    markdown: str | None = option(None, "also write the tables here, as Markdown")
    csv: str | None = option(None, "also write all figures here, unrounded")
    html: str | None = option(None, "also write a report with pictures here, one page that opens offline")
    truth: str | None = option(None, "file of ids and true labels of test rows: score on these")
    test_file: str | None = option(None, "with --truth: the test rows, for runs to predict")
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells of the test file", choices=["standard", "none"]
    )
    resamples: int = option(2000, "resamples of the bootstrap")
    seed: int = option(0, "seed of the bootstrap")
    per_device_eval_batch_size: int = option(128, "test rows predicted at a time")
    overwrite: bool = option(False, "replace files that exist")

    def __post_init__(self):
        if not self.runs:
            raise UserError("name the run folders to compare, before all flags: compare_runs.py outputs/*")
        for name, least in (("resamples", 100), ("seed", 0), ("per_device_eval_batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be {least} or more")
        if self.test_file and not self.truth:
            raise UserError("--test_file is for --truth: name the file with the true labels too")


def read_runs(names, log):
    """The finished runs among the folders named; of the others `log` is told in a line each."""
    from pathlib import Path

    from utils.runs.finished import read_run
    from utils.runs.folder import RESULTS_FILE

    runs, seen = [], set()
    for name in names:
        if Path(name).resolve() in seen:
            continue
        seen.add(Path(name).resolve())
        if not Path(name).exists():
            raise UserError(f"{name}: no such folder")
        try:
            runs.append(read_run(name))
        except UserError as error:
            below = len(list(Path(name).glob(f"*/{RESULTS_FILE}")))
            hint = f"; it holds {below} runs: name {name.rstrip('/')}/*" if below else ""
            log(f"skipped: {error}{hint}")
    return runs


@exit_on_user_error
def main(argv=None):
    """Read, group, score, compare, print and write."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        return print_help(__doc__, [CompareArguments])
    # The parser knows flags alone: words before the first one are the runs.
    words = list(takewhile(lambda word: not word.startswith("--"), argv))
    (args,) = ArgumentParser([CompareArguments]).parse([*(["--runs", *words] if words else []), *argv[len(words) :]])

    from utils.core.files import atomic_path, check_targets, write_text

    targets = {name: getattr(args, name) for name in ("markdown", "csv", "html")}
    check_targets(targets, [*args.runs, args.truth, args.test_file], args.overwrite)

    from utils.core.tables import format_table
    from utils.report.tables import caption, csv_records, difference_rows, score_rows
    from utils.runs.comparison import Entry, make_boards, validation_entries
    from utils.runs.finished import TUNED
    from utils.runs.groups import short_names

    notes = []

    def log(message):
        notes.append(message)
        print(message, file=sys.stderr)

    # Read
    submissions = [name for name in args.runs if name.lower().endswith(".csv")] if args.truth else []
    runs = read_runs([name for name in args.runs if name not in submissions], log)
    if not runs and not submissions:
        raise UserError(f"no finished run among {', '.join(args.runs)}: name folders of finished runs")

    # Predictions
    if not args.truth:
        entries, left_out = validation_entries(runs)
    else:
        from utils.runs.held_labels import held_entries, read_held_labels, submission_scored

        if runs and not args.test_file:
            raise UserError(f"{runs[0].folder} must predict the test rows: name their file by --test_file")
        held = read_held_labels(args.truth, runs[0].task if runs else None, submissions)
        entries = [
            Entry(short, "-", "submission file", "-", [submission_scored(name, held)], TUNED)
            for name, short in short_names(submissions).items()
        ]
        left_out = []
        if runs:
            of_runs, left_out = held_entries(
                runs, args.test_file, held, args.per_device_eval_batch_size, args.csv_quoting
            )
            entries += of_runs
    for note in left_out:
        log(note)

    # Compare
    boards = make_boards(entries, args.resamples, args.seed)
    if len(boards) > 1:
        log(
            f"the runs were scored on {len(boards)} different sets of rows: one table for each, and no comparison "
            "between them"
        )

    # Show and write
    def tables(markdown, width=None):
        parts = []
        for board in boards:
            text = caption(board, bool(args.truth), args.resamples)
            parts += [format_table(*score_rows(board, bool(args.truth)), markdown, width)]
            parts += [fill(text, width) if width else text]
            if len(board.entries) > 1:
                parts += [f"macro-F1 against {board.entries[0].name}, paired bootstrap on the same rows:"]
                parts += [format_table(*difference_rows(board), markdown, width)]
        return "\n\n".join(parts)

    print(tables(markdown=False, width=get_terminal_size().columns if sys.stdout.isatty() else None))
    if args.markdown:
        write_text(args.markdown, "\n\n".join([tables(markdown=True), *(f"- {note}" for note in notes)]) + "\n")
    if args.csv:
        import pandas as pd

        with atomic_path(args.csv) as temporary:
            pd.DataFrame(csv_records(boards)).to_csv(temporary, index=False)
    if args.html:
        from utils.report.page import write_comparison_report

        write_comparison_report(args.html, boards, notes, bool(args.truth), args.resamples)
    for path in filter(None, (args.markdown, args.csv, args.html)):
        print(f"\nwritten: {path}", end="")
    print()


if __name__ == "__main__":
    main()
