"""Compare finished runs: a table of scores with intervals, and which differences are more than luck.

    python compare_runs.py outputs/*
    python compare_runs.py outputs/* --markdown results.md --csv results.csv --html results.html --picture results.png
    python compare_runs.py outputs/* submission.csv --truth test_labels.csv --test_file test.csv

Run folders come first, then flags. Runs that differ in seed alone become one row with mean and standard deviation;
folds of one run become one row with the score of their out-of-fold predictions together. With --truth, runs and
submission files are scored on held labels instead.
"""

import sys
from dataclasses import dataclass
from shutil import get_terminal_size

from utils.core.errors import UserError
from utils.core.log import log, say
from utils.core.parser import option, script


@dataclass
class CompareArguments:
    """What to compare, on what, and where the tables go."""

    runs: list[str] = option(None, "folders of finished runs; with --truth submission files too")
    markdown: str | None = option(None, "also write the tables here, as Markdown")
    csv: str | None = option(None, "also write all figures here, unrounded")
    html: str | None = option(None, "also write a report with pictures here, one page that opens offline")
    picture: str | None = option(None, "also write the picture of the scores with intervals here, a .png")
    truth: str | None = option(None, "file of ids and true labels of test rows: score on these")
    test_file: str | None = option(None, "with --truth: the test rows, for runs to predict")
    column_names: list[str] | None = option(None, "names of the test file's columns, if it has no header")
    unknown_labels: bool = option(
        False, "take label cells of --truth that are blank or -1 for not annotated: they count in no score"
    )
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells of the test file; left out: as in training", choices=["standard", "none"]
    )
    resamples: int = option(2000, "resamples of the bootstrap")
    seed: int = option(0, "seed of the bootstrap")
    best_by: str | None = option(
        None,
        "the score that runs are ranked by; left out: what all were trained for, else f1_macro",
        choices=["f1_macro", "f1_micro", "f1_samples", "jaccard", "exact_match", "roc_auc_macro"],
    )
    power: float = option(0.01, "a difference in that score: the text says how many seeds or rows would show it")
    per_device_eval_batch_size: int = option(128, "test rows predicted at a time")
    overwrite: bool = option(False, "replace files that exist")
    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")
    check_weights: bool = option(False, "read the weights whole to check them, not their size and header alone")

    def __post_init__(self):
        if not self.runs:
            raise UserError("name the run folders to compare: compare_runs.py outputs/*")
        if self.picture and not self.picture.lower().endswith(".png"):
            raise UserError(f"--picture {self.picture}: must end in .png")
        for name, least in (("resamples", 100), ("seed", 0), ("per_device_eval_batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be {least} or more")
        if not 0 < self.power < 1:
            raise UserError(f"--power {self.power}: a difference in the score, between 0 and 1")
        if self.unknown_labels and not self.truth:
            raise UserError("--unknown_labels is for --truth: name the file with the true labels too")
        if self.test_file and not self.truth:
            raise UserError("--test_file is for --truth: name the file with the true labels too")


@script(__doc__, [CompareArguments], words="runs")
def main(args: CompareArguments) -> None:
    """Read, score, compare, show, write."""
    # Imported here because they load pandas and scikit-learn, and --help should not.
    from utils.core.files import check_targets, write_text
    from utils.core.shown import escape_markdown
    from utils.report.tables import comparison_tables, write_csv
    from utils.runs.comparison import make_boards, validation_entries
    from utils.runs.finished import read_runs

    targets = {name: getattr(args, name) for name in ("markdown", "csv", "html", "picture")}
    check_targets(targets, [*args.runs, args.truth, args.test_file], args.overwrite)
    notes = []

    def note(message):
        notes.append(message)
        log(message)

    # Read
    submissions = [name for name in args.runs if name.lower().endswith(".csv")] if args.truth else []
    runs, skipped = read_runs(
        [name for name in args.runs if name not in submissions], args.skip_checks, args.check_weights
    )
    for message in skipped:
        note(message)
    if not runs and not submissions:
        raise UserError(f"no finished run among {', '.join(args.runs)}: name folders of finished runs")

    # Score
    if args.truth:
        from utils.data.headers import Layout
        from utils.runs.held_labels import score_on_held_labels  # loads datasets, and torch to predict

        names = tuple(args.column_names) if args.column_names else None
        files = (args.truth, args.test_file, Layout(args.csv_quoting, column_names=names))
        entries, left_out = score_on_held_labels(
            runs, submissions, *files, args.per_device_eval_batch_size, args.unknown_labels
        )
    else:
        entries, left_out = validation_entries(runs)
    for message in left_out:
        note(message)

    # Compare
    boards = make_boards(entries, args.resamples, args.seed, args.best_by)
    if len(boards) > 1:
        note(
            f"the runs were scored on {len(boards)} different sets of rows: one table for each, and no comparison "
            "between them"
        )
        if args.picture:
            raise UserError("--picture shows runs that were scored on the same rows: name those alone")

    # Show and write
    held, width = bool(args.truth), get_terminal_size().columns if sys.stdout.isatty() else None
    say(comparison_tables(boards, held, args.resamples, width=width, gap=args.power))
    if args.markdown:
        tables = comparison_tables(boards, held, args.resamples, markdown=True, gap=args.power)
        write_text(args.markdown, "\n\n".join([tables, *(f"- {escape_markdown(message)}" for message in notes)]) + "\n")
    if args.csv:
        write_csv(args.csv, boards)
    if args.html:
        from utils.report.page import write_comparison_report  # loads matplotlib

        write_comparison_report(args.html, boards, notes, held, args.resamples, args.power)
    if args.picture:
        from utils.report.page import scores_picture
        from utils.report.pictures import save_png

        save_png(scores_picture(boards[0]), args.picture)
    for path in filter(None, targets.values()):
        say(f"\nwritten: {path}", end="")
    say()


if __name__ == "__main__":
    main()
