"""Write a submission file from one or several finished runs.

    python make_submission.py --model outputs/roberta --test_file test.csv --output_file submission.csv

The run folder says what the labels and columns are, how texts are read, and the thresholds. Probabilities of several
runs are averaged, with --weights if you like; new thresholds are chosen on the average of their validation
predictions. The folds of one training count as one run, with the predictions of the rows that each has held out: the
scores shown are those of single models, not of the mean of the folds that is submitted.

The test file is read, predicted and written chunk by chunk, so it may be of any length. Under `accelerate launch` the
processes share the work, each with the whole model.
"""

from dataclasses import dataclass

from utils.core.arguments import as_separator, check_column_names
from utils.core.errors import UserError
from utils.core.log import say
from utils.core.parser import option, script


@dataclass
class SubmissionArguments:
    """What to predict with, what, and where to."""

    model: list[str] = option(None, "folder of a finished run, or its name on the Hub; several are averaged")
    test_file: str = option(
        None, "rows to predict: .csv, .tsv, .txt, .jsonl, .parquet or .xlsx, packed or not; label cells are ignored"
    )
    output_file: str = option(None, "submission file to write")
    sample_submission: str | None = option(None, "file whose columns, ids and order the submission takes over")
    copy_columns: list[str] | None = option(
        None,
        "columns of --sample_submission that look like labels which the runs do not know, and are copied as they are; "
        "left out: such a column is refused",
    )
    probabilities_file: str | None = option(None, "also write the probabilities here, as .parquet or .csv")
    weights: list[str] | None = option(
        None,
        "weight of each --model in the mean of probabilities, or fit: fitted, if that gains more than noise",
    )
    submission: str = option(
        "auto",
        "what the cells say; auto: probabilities where cells of --sample_submission have a decimal point, else labels",
        choices=["auto", "labels", "probabilities"],
    )
    calibrate: bool = option(
        False, "make probabilities say how often they are right, by a curve of each label; labels stay as they are"
    )
    best_by: str | None = option(
        None,
        "the score that thresholds, and weights to fit, are chosen for; left out: as the runs were trained",
        choices=["f1_macro", "f1_micro", "f1_samples", "jaccard", "exact_match", "roc_auc_macro"],
    )
    threshold_strategy: str | None = option(
        None, "left out: as the runs were trained", choices=["fixed", "global", "per_label", "calibrated"]
    )
    threshold_shrinkage: float | None = option(None, "left out: as the runs were trained")
    column_names: list[str] | None = option(None, "names of the test file's columns, if it has no header")
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells of the test file; left out: as in training", choices=["standard", "none"]
    )
    csv_separator: str | None = option(
        None, "what stands between cells of the test file; left out: by its name, or what its rows agree on"
    )
    excel_sheet: str | None = option(None, "sheet of the test file, if it is an Excel workbook; left out: the first")
    per_device_eval_batch_size: int = option(128, "rows predicted at a time by one process")
    max_test_samples: int | None = option(None, "predict the first so many rows only, for a dry run")
    chunk_rows: int = option(10_000, "rows read and predicted before the next; memory grows with it, not with the file")
    overwrite: bool = option(False, "replace files that exist")
    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")
    check_weights: bool = option(False, "read the weights whole to check them, not their size and header alone")
    trust_remote_code: bool = option(
        False, "run the code that an adapter's base model brings; read it first. The code of a run never is"
    )

    def __post_init__(self):
        for name in ("model", "test_file", "output_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing")
        for name in ("per_device_eval_batch_size", "max_test_samples", "chunk_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")
        if self.copy_columns and not self.sample_submission:
            raise UserError("--copy_columns is for columns of --sample_submission: add it, or leave both out")
        if self.threshold_shrinkage is not None and not 0 <= self.threshold_shrinkage < float("inf"):
            raise UserError(f"--threshold_shrinkage {self.threshold_shrinkage}: must be 0 or more")
        self._check_weights()
        self.csv_separator = as_separator(self.csv_separator)
        check_column_names(self.column_names)
        if not self.output_file.endswith(".csv"):
            raise UserError(f"--output_file {self.output_file}: must end in .csv")
        if self.probabilities_file and not self.probabilities_file.endswith((".parquet", ".csv")):
            raise UserError(f"--probabilities_file {self.probabilities_file}: must end in .parquet or .csv")

    def _check_weights(self):
        if self.weights is None:
            return
        if len(self.model) == 1:
            raise UserError("--weights is for several runs: name them all after --model")
        if self.weights == ["fit"]:
            return
        try:
            values = [float(weight) for weight in self.weights]
        except ValueError:
            values = [-1.0]
        if any(not 0 < value < float("inf") for value in values):
            raise UserError(f"--weights {' '.join(self.weights)}: give fit, or numbers above 0")
        if len(values) != len(self.model):
            raise UserError(f"--weights: there are {len(values)} for {len(self.model)} runs: give one for each --model")


@script(__doc__, [SubmissionArguments], quiet=True)
def main(args: SubmissionArguments) -> None:
    """Check, combine, predict, write."""
    from utils.core.files import check_file, check_targets
    from utils.core.log import log
    from utils.hub.pull import local_folder
    from utils.runs.folder import load_task

    # Refuse what is not there
    targets = {name: getattr(args, name) for name in ("output_file", "probabilities_file")}
    check_targets(targets, [*args.model, args.test_file, args.sample_submission], args.overwrite)
    folders = [local_folder(name, args.skip_checks, args.check_weights) for name in args.model]
    for folder in folders:
        load_task(folder)
    for file in filter(None, (args.test_file, args.sample_submission)):
        check_file(file)

    # Imported here because they load pandas and datasets, and what is refused above should not.
    from utils.data.headers import Layout
    from utils.data.tables import read_chunks
    from utils.doctor.finding import problems_of
    from utils.runs.combination import Wanted, combine_runs
    from utils.runs.submission import (
        RowsToPredict,
        SubmissionWriter,
        check_rows,
        compare_with_training,
        load_tasks,
        predict_runs,
        submission_format,
        wants_probabilities,
        with_ids_of,
    )

    # Runs
    tasks = load_tasks(folders)
    for warning in filter(None, map(problems_of, folders)):
        log(warning)
    task = tasks[0]
    as_probabilities = args.submission == "probabilities"
    if args.submission == "auto" and wants_probabilities(args.sample_submission, task):
        as_probabilities = True
        log(
            f"{args.sample_submission} has cells with a decimal point: probabilities are written, with a point "
            "(--submission labels)"
        )
    if args.calibrate and task.single_label:
        raise UserError(
            f"--calibrate is for labels that stand alone: {folders[0]} gives each text one label: leave it out"
        )
    if args.calibrate and not as_probabilities and not args.probabilities_file:
        raise UserError(
            "--calibrate changes probabilities alone: add --submission probabilities or --probabilities_file"
        )
    of_thresholds = (args.threshold_strategy, args.threshold_shrinkage, args.best_by)
    how = combine_runs(folders, task.labels, Wanted(args.weights, *of_thresholds, as_probabilities, args.calibrate))

    # Test rows
    names = tuple(args.column_names) if args.column_names else None
    layout = Layout(args.csv_quoting, args.csv_separator, names, sheet=args.excel_sheet).as_trained(task)

    def chunks():
        return read_chunks(args.test_file, args.chunk_rows, layout, args.max_test_samples)

    task = with_ids_of(next(chunks()), task, args.sample_submission)
    tasks = [task, *tasks[1:]]
    test = RowsToPredict(args.test_file, chunks, check_rows(chunks, tasks), whole=not args.max_test_samples)
    copied = args.copy_columns or ()
    form = submission_format(test, task, args.sample_submission, args.chunk_rows, as_probabilities, copied)
    if as_probabilities and not all(map(form.has_column, task.labels)):
        raise UserError("--submission probabilities: the sample has one column of labels: add --submission labels")

    # Predict
    batch_size, code = args.per_device_eval_batch_size, args.trust_remote_code
    average = predict_runs(folders, how.weights, task, test, batch_size, args.output_file, code)
    if average is None:
        return  # the main process has the probabilities, and writes

    # Write
    calibration = how.thresholds.calibration if args.calibrate else None
    with SubmissionWriter(args.output_file, args.probabilities_file, form, task, as_probabilities) as writer:
        for part in form.parts(test, task):
            probabilities = average.read(part.rows)
            predictions = how.thresholds.apply(probabilities)
            writer.add(part, probabilities if calibration is None else calibration.apply(probabilities), predictions)
    say(f"{writer.rates_table()}\n")
    say(how.text)
    say(compare_with_training(folders[0], how.reference, test, task, average, how.thresholds))
    say(f"{writer.rows} rows written to {args.output_file}")


if __name__ == "__main__":
    main()
