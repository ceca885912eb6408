"""Write a submission file from one or several finished runs.

    python make_submission.py --model outputs/roberta --test_file test.csv --output_file submission.csv

The run folder says what the labels and columns are, how texts are read, and the thresholds. Probabilities of several
runs are averaged, with --weights if you like; their thresholds are chosen anew on the average of their validation
predictions. The folds of one training count as one run, with the predictions of the rows that each has held out.

The test file is read, predicted and written chunk by chunk, so it may be of any length. Under `accelerate launch` the
processes share the work, each with the whole model.
"""

import sys
from dataclasses import dataclass

from utils.core.errors import UserError, exit_on_user_error
from utils.core.parser import ArgumentParser, option, print_help


@dataclass
class SubmissionArguments:
    """What to predict with, what, and where to."""

    model: list[str] = option(None, "folder of a finished run, or its name on the Hub; several are averaged")
    test_file: str = option(None, "rows to predict: .csv, .tsv, .txt, .jsonl or .parquet; label cells are ignored")
    output_file: str = option(None, "submission file to write")
    sample_submission: str | None = option(None, "file whose columns the submission takes over")
    probabilities_file: str | None = option(None, "also write the probabilities here, as .parquet or .csv")
    weights: list[str] | None = option(
        None, "weight of each --model in the mean of probabilities, or fit: chosen on the validation rows"
    )
    threshold_strategy: str | None = option(
        None, "left out: as the runs were trained", choices=["fixed", "global", "per_label"]
    )
    threshold_shrinkage: float | None = option(None, "left out: as the runs were trained")
    csv_quoting: str | None = option(
        None, "whether quotes enclose cells of the test file", choices=["standard", "none"]
    )
    per_device_eval_batch_size: int = option(128, "rows predicted at a time by one process")
    max_test_samples: int | None = option(None, "predict the first so many rows only, for a dry run")
    chunk_rows: int = option(10_000, "rows read and predicted before the next; memory grows with it, not with the file")
    overwrite: bool = option(False, "replace files that exist")

    def __post_init__(self):
        for name in ("model", "test_file", "output_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing")
        for name in ("per_device_eval_batch_size", "max_test_samples", "chunk_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be 1 or more")
        if self.threshold_shrinkage is not None and not 0 <= self.threshold_shrinkage < float("inf"):
            raise UserError(f"--threshold_shrinkage {self.threshold_shrinkage}: must be 0 or more")
        self._check_weights()
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


def combine_runs(args, tasks):
    """How the runs become one: `(weights [R] of the runs, thresholds [L], lines that say so)`.

    One run keeps its thresholds, unless others are asked for; of several they are chosen anew on the weighted mean of
    their validation predictions.

    Raises:
        UserError: for runs that do not go together, or weights that do not fit them.
    """
    import numpy as np

    from utils.runs.folder import load_thresholds
    from utils.scoring.thresholds import fit_thresholds

    stored = [load_thresholds(folder, tasks[0].labels) for folder in args.model]
    refit = args.threshold_shrinkage is not None or args.threshold_strategy not in (None, stored[0][1])
    if len(stored) == 1 and not refit:
        return np.ones(1), stored[0][0], f"thresholds of {args.model[0]} ({stored[0][1]})"
    strategies = {args.threshold_strategy or strategy for _, strategy, _ in stored}
    shrinkages = {shrinkage for _, _, shrinkage in stored} if args.threshold_shrinkage is None else set()
    if len(strategies) > 1:
        raise UserError(f"the runs {', '.join(args.model)} choose thresholds differently: pass --threshold_strategy")
    (strategy,) = strategies
    if strategy == "per_label" and len(shrinkages) > 1:
        raise UserError(f"the runs {', '.join(args.model)} shrink thresholds differently: pass --threshold_shrinkage")
    shrinkage = args.threshold_shrinkage if args.threshold_shrinkage is not None else min(shrinkages)

    from utils.runs.ensembles import fitted_weights, gather_members, join_members, score_table
    from utils.runs.finished import read_run

    runs = [read_run(folder) for folder in args.model]
    members = gather_members(runs)
    ensemble = join_members(members)
    run_weights, fitted_scores = np.ones(len(args.model)), None
    if args.weights == ["fit"]:
        member_weights, fitted_scores = fitted_weights(ensemble, strategy, shrinkage)
        for member, weight in zip(members, member_weights):
            run_weights[member.runs] = weight / len(member.runs)
    else:
        if args.weights:
            run_weights = np.array([float(weight) for weight in args.weights])
        # The folds of one training are one member: each has held out other rows.
        member_weights = np.array([run_weights[member.runs].sum() for member in members])
        if not args.weights:
            member_weights = np.ones(len(members))
            for member in members:
                run_weights[member.runs] = 1 / len(member.runs)
    rows = ensemble.chosen_on
    thresholds = fit_thresholds(ensemble.mean(member_weights)[rows], ensemble.truth[rows], strategy, shrinkage)
    lines = score_table(ensemble, member_weights, strategy, shrinkage, fitted_scores) if len(args.model) > 1 else ""
    if any(run.arguments.get("load_best_model_at_end") for run in runs) and lines:
        lines += "\nCheckpoints were chosen on these rows, so expect a little less on new ones."
    what = "averaged probabilities" if ensemble.comparable else "probabilities of the runs that held out each"
    if len(members) == 1:
        what = "probabilities"
    lines += f"\n\nthresholds chosen on the {what} of {rows.sum():,} validation rows ({strategy})"
    return run_weights / run_weights.sum(), thresholds, lines.strip()


def check_rows(chunks, tasks):
    """Read the whole test file once, before anything is predicted.

    Args:
        chunks: function that returns an iterator over the chunks of the file.
        tasks: of the runs that are to predict it.

    Returns:
        hashes of the ids (`utils.data.columns.hash_ids`), one for each row.

    Raises:
        UserError: for rows that cannot be predicted.
    """
    from utils.data.columns import check_test_columns, check_unique_ids, read_texts

    by_columns = {(task.id_column, task.text_column): task for task in tasks}

    def checked_chunks():
        for chunk in chunks():
            for task in by_columns.values():
                check_test_columns(chunk, task)
                read_texts(chunk, task)
            yield chunk

    return check_unique_ids(checked_chunks, tasks[0])


def submission_columns(args, task, chunks, id_hashes):
    """Columns of the submission: the sample file's where given, else the id and one a label.

    Raises:
        UserError: where the sample file has other columns, or other ids than the test file.
    """
    from dataclasses import replace

    import numpy as np

    from utils.data.columns import check_unique_ids, hash_ids, read_ids
    from utils.data.tables import read_chunks

    id_name = task.id_column or "id"
    if args.sample_submission is None:
        return [id_name, *task.labels]

    def sample_chunks():
        return read_chunks(args.sample_submission, args.chunk_rows)

    sample = next(sample_chunks())
    names = sample.rows.column_names
    unknown = set(names) - {id_name, *task.labels, *task.label_columns}
    # A column each label, also where training had one column of lists; or that column.
    missing = {id_name, *(task.labels if set(task.labels) & set(names) else task.label_columns)} - set(names)
    if unknown or missing:
        raise UserError(
            f"{sample.name}: its columns differ from the runs' ({id_name}, {', '.join(task.label_columns)}): "
            f"unknown {sorted(unknown) or 'none'}, missing {sorted(missing) or 'none'}"
        )
    with_ids = replace(task, id_column=id_name)
    sample_hashes = check_unique_ids(sample_chunks, with_ids)
    for here, there, its_chunks, its_task, extra in (
        (args.test_file, sample.name, chunks, task, np.setdiff1d(id_hashes, sample_hashes)),
        (sample.name, args.test_file, sample_chunks, with_ids, np.setdiff1d(sample_hashes, id_hashes)),
    ):
        if len(extra) and not args.max_test_samples:
            ids = (value for chunk in its_chunks() for value in read_ids(chunk, its_task))
            first = next(value for value in ids if hash_ids([value])[0] in extra)
            raise UserError(
                f'{here}: the id "{first}" is not in {there} ({len(extra)} such ids): give files that belong together'
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


def rates_table(task, rows, positives, without_label):
    """Table of the share of rows with each label, predicted (`positives` `[L]` of `rows`) and in training."""
    from utils.core.tables import format_table

    shares = [
        # A model scored as it is was not trained on any rows.
        [label, f"{predicted / rows:.1%}", f"{count / task.train_rows:.1%}" if task.train_rows else ""]
        for label, predicted, count in zip(task.labels, positives, task.train_positives)
    ]
    return format_table(
        ["label", "predicted", "training"], [*shares, ["(no label)", f"{without_label / rows:.1%}", ""]]
    )


def predict_runs(args, weights, task, chunks, rows):
    """Weighted mean of the runs' probabilities of the rows: a `ProbabilityFile`, None but in the main process.

    Run after run, so that only one model is in memory.

    Raises:
        UserError: for a run that cannot be loaded, or predicts NaN.
    """
    from pathlib import Path

    from tqdm import tqdm

    from utils.core.files import told_if_unwritable
    from utils.core.processes import this_process
    from utils.runs.inference import ProbabilityFile, load_run, predict_table

    main_process = this_process().is_main_process
    average = None
    # Fitted weights may leave a run out.
    used = [(folder, weight) for folder, weight in zip(args.model, weights) if weight > 0]
    with tqdm(total=rows * len(used), unit="row", desc="predicting", disable=None if main_process else True) as bar:
        for folder, weight in used:
            run = load_run(folder)
            in_order = [run.task.labels.index(label) for label in task.labels]
            for chunk in chunks():
                member = predict_table(run, chunk, args.per_device_eval_batch_size)
                if main_process:
                    if average is None:
                        with told_if_unwritable(args.output_file):
                            Path(args.output_file).parent.mkdir(parents=True, exist_ok=True)
                        average = ProbabilityFile(Path(args.output_file).parent, len(task.labels))
                    average.add(chunk.start, member[:, in_order] * weight)
                bar.update(len(member))
    return average


def write_files(args, task, columns, chunks, average, thresholds):
    """Write submission and probabilities chunk by chunk; both files appear when they are complete.

    Returns:
        `(positives [L], without_label)`: rows with each label, and with none, in the submission.
    """
    from contextlib import ExitStack

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from utils.core.files import atomic_path
    from utils.data.columns import read_ids
    from utils.scoring.thresholds import apply_thresholds

    positives, without_label = np.zeros(len(task.labels), dtype=int), 0
    with ExitStack() as stack:
        submission = stack.enter_context(atomic_path(args.output_file))
        probabilities_file = parquet = None
        if args.probabilities_file:
            probabilities_file = stack.enter_context(atomic_path(args.probabilities_file))
        for chunk in chunks():
            ids = read_ids(chunk, task)
            probabilities = average.read(chunk.start, len(ids))
            predictions = apply_thresholds(probabilities, thresholds)
            positives += predictions.sum(axis=0)
            without_label += int((predictions.sum(axis=1) == 0).sum())
            # To the end of the file; the header above the first chunk only.
            appending = {"mode": "a", "header": chunk.start == 0, "index": False}
            submission_frame(columns, task, ids, predictions).to_csv(submission, **appending)
            if not args.probabilities_file:
                continue
            frame = pd.DataFrame({task.id_column or "id": ids} | dict(zip(task.labels, probabilities.T)))
            if args.probabilities_file.endswith(".csv"):
                frame.to_csv(probabilities_file, **appending)
                continue
            rows = pa.Table.from_pandas(frame, preserve_index=False)
            parquet = parquet or stack.enter_context(pq.ParquetWriter(probabilities_file, rows.schema))
            parquet.write_table(rows)
    return positives, without_label


@exit_on_user_error
def main(argv=None):
    """Predict, average, choose, write."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        return print_help(__doc__, [SubmissionArguments])
    (args,) = ArgumentParser([SubmissionArguments]).parse(argv)
    # What can be refused is refused before the heavy imports.
    from pathlib import Path

    from utils.core.files import check_targets
    from utils.data.tables import read_chunks
    from utils.hub.push import local_folder
    from utils.runs.folder import load_task

    # Runs
    targets = {name: getattr(args, name) for name in ("output_file", "probabilities_file")}
    check_targets(targets, [*args.model, args.test_file, args.sample_submission], args.overwrite)
    args.model = [local_folder(name) for name in args.model]
    folders = [Path(folder).resolve() for folder in args.model]
    for i, folder in enumerate(args.model):
        if folders[i] in folders[:i]:
            raise UserError(f"--model {folder} is named twice: name each run once, and weigh it by --weights")
    tasks = [load_task(folder) for folder in args.model]
    task = tasks[0]
    for folder, other in zip(args.model[1:], tasks[1:]):
        if set(other.labels) != set(task.labels):
            raise UserError(
                f"{args.model[0]} and {folder} have different labels ({', '.join(task.labels)} and "
                f"{', '.join(other.labels)}): average runs of the same labels only"
            )
    weights, thresholds, how = combine_runs(args, tasks)

    # Test rows
    def chunks():
        return read_chunks(args.test_file, args.chunk_rows, args.csv_quoting, args.max_test_samples)

    id_hashes = check_rows(chunks, tasks)
    columns = submission_columns(args, task, chunks, id_hashes)

    # Predict, write
    average = predict_runs(args, weights, task, chunks, len(id_hashes))
    if average is not None:
        positives, without_label = write_files(args, task, columns, chunks, average, thresholds)
        print(f"{rates_table(task, len(id_hashes), positives, without_label)}\n")
        print(how)
        print(f"{len(id_hashes)} rows written to {args.output_file}")


if __name__ == "__main__":
    main()
