"""Write a submission file from one or several finished runs.

    python make_submission.py --model outputs/roberta --test_file test.csv --output_file submission.csv

The run folder says what the labels and columns are, how texts are read, and the thresholds. Probabilities of several
runs are averaged; their thresholds are chosen anew on the average of their validation predictions.
"""

import sys
from dataclasses import dataclass

from utils.arguments import ArgumentParser, option, print_help
from utils.errors import UserError, exit_on_user_error


@dataclass
class SubmissionArguments:
    """What to predict with, what, and where to."""

    model: list[str] = option(None, "folder of a finished run, or its name on the Hub; several are averaged")
    test_file: str = option(None, "rows to predict: .csv, .tsv, .txt, .jsonl or .parquet; label cells are ignored")
    output_file: str = option(None, "submission file to write")
    sample_submission: str | None = option(None, "file whose columns the submission takes over")
    probabilities_file: str | None = option(None, "also write the probabilities here, as .parquet or .csv")
    threshold_strategy: str | None = option(
        None, "left out: as the runs were trained", choices=["fixed", "global", "per_label"]
    )
    threshold_shrinkage: float | None = option(None, "left out: as the runs were trained")
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells of the test file", choices=["standard", "none"]
    )
    per_device_eval_batch_size: int = option(128, "rows predicted at a time by one process")
    max_test_samples: int | None = option(None, "predict the first so many rows only, for a dry run")
    overwrite: bool = option(False, "replace files that exist")

    def __post_init__(self):
        for name in ("model", "test_file", "output_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing")
        for name in ("per_device_eval_batch_size", "max_test_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")
        if not self.output_file.endswith(".csv"):
            raise UserError(f"--output_file {self.output_file}: must end in .csv")
        if self.probabilities_file and not self.probabilities_file.endswith((".parquet", ".csv")):
            raise UserError(f"--probabilities_file {self.probabilities_file}: must end in .parquet or .csv")


def check_targets(args):
    """Refuse to replace files unasked, and what could not be written or would be lost."""
    from pathlib import Path

    taken = {Path(path).resolve(): "input" for path in (args.test_file, args.sample_submission) if path}
    for name in ("output_file", "probabilities_file"):
        if not getattr(args, name):
            continue
        path = Path(getattr(args, name))
        if path.resolve() in taken:
            raise UserError(f"--{name} {path} is the {taken[path.resolve()]} file too: choose another name")
        if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            raise UserError(f"--{name} {path} is a folder, or lies below a file: choose another name")
        if path.exists() and not args.overwrite:
            raise UserError(f"--{name} {path} exists: choose another name, or pass --overwrite")
        taken[path.resolve()] = "submission"


def average_validation(folders, labels):
    """Validation truth and probabilities `[M, L]` of several runs, each row averaged over the runs that held it out.

    Raises:
        UserError: where two runs disagree about the truth of a row.
    """
    import pandas as pd

    from utils.run_folder import load_predictions

    frame = pd.concat([load_predictions(folder, labels) for folder in folders])
    by_id = frame.groupby("id", sort=True)
    truth = frame[["id", *(f"truth/{label}" for label in labels)]].drop_duplicates()
    if truth["id"].duplicated().any():
        first = truth["id"][truth["id"].duplicated()].iloc[0]
        raise UserError(
            f'the runs {", ".join(folders)} disagree about the labels of the validation row with id "{first}": '
            "average runs of the same data only"
        )
    probabilities = by_id[[f"probability/{label}" for label in labels]].mean()
    return truth.set_index("id").loc[probabilities.index].to_numpy(), probabilities.to_numpy()


def choose_thresholds(args, tasks):
    """Thresholds `[L]` for the (average of the) runs, and a line on where they are from."""
    from utils.run_folder import load_thresholds
    from utils.thresholds import fit_thresholds

    labels = tasks[0].labels
    stored = [load_thresholds(folder, labels) for folder in args.model]
    refit = args.threshold_shrinkage is not None or args.threshold_strategy not in (None, stored[0][1])
    if len(stored) == 1 and not refit:
        return stored[0][0], f"thresholds of {args.model[0]} ({stored[0][1]})"
    strategies = {args.threshold_strategy or strategy for _, strategy, _ in stored}
    shrinkages = {shrinkage for _, _, shrinkage in stored} if args.threshold_shrinkage is None else set()
    if len(strategies) > 1:
        raise UserError(f"the runs {', '.join(args.model)} choose thresholds differently: pass --threshold_strategy")
    (strategy,) = strategies
    if strategy == "per_label" and len(shrinkages) > 1:
        raise UserError(f"the runs {', '.join(args.model)} shrink thresholds differently: pass --threshold_shrinkage")
    shrinkage = args.threshold_shrinkage if args.threshold_shrinkage is not None else min(shrinkages)
    truth, probabilities = average_validation(args.model, labels)
    thresholds = fit_thresholds(probabilities, truth, strategy, shrinkage)
    return thresholds, f"thresholds chosen on the averaged probabilities of {len(truth)} validation rows ({strategy})"


def submission_columns(args, task, ids):
    """Columns of the submission: the sample file's where given, else the id and one a label.

    Raises:
        UserError: where the sample file has other columns, or other ids than the test file's `ids`.
    """
    from dataclasses import replace

    from utils.columns import read_ids
    from utils.table_files import read_table

    id_name = task.id_column or "id"
    if args.sample_submission is None:
        return [id_name, *task.labels]
    sample = read_table(args.sample_submission)
    names = sample.rows.column_names
    unknown = set(names) - {id_name, *task.labels, *task.label_columns}
    # A column each label, also where training had one column of lists; or that column.
    missing = {id_name, *(task.labels if set(task.labels) & set(names) else task.label_columns)} - set(names)
    if unknown or missing:
        raise UserError(
            f"{sample.name}: its columns differ from the runs' ({id_name}, {', '.join(task.label_columns)}): "
            f"unknown {sorted(unknown) or 'none'}, missing {sorted(missing) or 'none'}"
        )
    wanted = set(read_ids(sample, replace(task, id_column=id_name)))
    for here, there, extra in (
        (args.test_file, sample.name, set(ids) - wanted),
        (sample.name, args.test_file, wanted - set(ids)),
    ):
        if extra and not args.max_test_samples:
            raise UserError(
                f'{here}: the id "{min(extra)}" is not in {there} ({len(extra)} such ids): '
                "give files that belong together"
            )
    return names


def submission_frame(columns, task, ids, predictions):
    """The submission as a data frame with these columns."""
    import pandas as pd

    values = {task.id_column or "id": ids} | {label: predictions[:, i] for i, label in enumerate(task.labels)}
    if not task.labels_are_columns:
        delimiter = task.label_delimiter or ","
        names = [[label for label, yes in zip(task.labels, row) if yes] for row in predictions]
        values[task.label_columns[0]] = [delimiter.join(row) for row in names]
    return pd.DataFrame({name: values[name] for name in columns})


def rates_table(task, predictions):
    """Table of the share of rows with each label, predicted and in training."""
    from utils.tables import format_table

    predicted = predictions.mean(axis=0)
    rows = [
        [label, f"{rate:.1%}", f"{count / task.train_rows:.1%}" if task.train_rows else ""]  # zero-shot has none
        for label, rate, count in zip(task.labels, predicted, task.train_positives)
    ]
    none_rate = (predictions.sum(axis=1) == 0).mean()
    return format_table(["label", "predicted", "training"], [*rows, ["(no label)", f"{none_rate:.1%}", ""]])


@exit_on_user_error
def main(argv=None):
    """Predict, average, choose, write."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        return print_help(__doc__, [SubmissionArguments])
    (args,) = ArgumentParser([SubmissionArguments]).parse(argv)
    check_targets(args)

    # What can be refused is refused before the heavy imports.
    import pandas as pd

    from utils.columns import check_test_columns, read_ids
    from utils.files import atomic_path
    from utils.hub import local_folder
    from utils.run_folder import load_task
    from utils.table_files import read_table
    from utils.thresholds import apply_thresholds

    # Runs
    args.model = [local_folder(name) for name in args.model]
    tasks = [load_task(folder) for folder in args.model]
    task = tasks[0]
    for folder, other in zip(args.model[1:], tasks[1:]):
        if set(other.labels) != set(task.labels):
            raise UserError(
                f"{args.model[0]} and {folder} have different labels ({', '.join(task.labels)} and "
                f"{', '.join(other.labels)}): average runs of the same labels only"
            )
    thresholds, threshold_source = choose_thresholds(args, tasks)

    # Test rows
    table = read_table(args.test_file, args.csv_quoting)
    if args.max_test_samples:
        table.rows = table.rows.select(range(min(args.max_test_samples, len(table.rows))))
    check_test_columns(table, task)
    ids = read_ids(table, task)
    columns = submission_columns(args, task, ids)

    # Predict
    from accelerate import PartialState

    from utils.predict import load_run, predict_table

    probabilities = 0
    for folder in args.model:
        run = load_run(folder)
        in_order = [run.task.labels.index(label) for label in task.labels]
        member = predict_table(run, table, args.per_device_eval_batch_size)
        probabilities = probabilities + member[:, in_order] / len(args.model)
    predictions = apply_thresholds(probabilities, thresholds)

    # Write
    if PartialState().is_main_process:
        frame = submission_frame(columns, task, ids, predictions)
        with atomic_path(args.output_file) as temporary:
            frame.to_csv(temporary, index=False)
        if args.probabilities_file:
            frame = pd.DataFrame({task.id_column or "id": ids} | dict(zip(task.labels, probabilities.T)))
            with atomic_path(args.probabilities_file) as temporary:
                if args.probabilities_file.endswith(".csv"):
                    frame.to_csv(temporary, index=False)
                else:
                    frame.to_parquet(temporary, index=False)
        print(f"{rates_table(task, predictions)}\n")
        print(f"{threshold_source}")
        print(f"{len(ids)} rows written to {args.output_file}")


if __name__ == "__main__":
    main()
