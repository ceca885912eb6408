"""Try a finished run on some texts.

    python predict.py --model outputs/minilm "so happy for you 😂" "not again..."
    python predict.py --model outputs/minilm --file texts.txt --json > labels.jsonl
    python predict.py --model outputs/minilm --file sample_data/test.csv --json > labels.jsonl
    python predict.py --model outputs/questions "why does she always win?" --labels envy pride
    grep happy texts.txt | python predict.py --model outputs/minilm

Without a text or --file, lines are read from standard input; empty ones are skipped. Of a table the column of texts is
predicted that the run was trained on, and its ids stand before the texts. Texts that begin with a dash come
last, after `--`. A label is given where its probability reaches the run's threshold for it; where each text has one
label, the likeliest is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from utils.core.arguments import check_column_names
from utils.core.errors import UserError
from utils.core.parser import option, script
from utils.core.shown import printable, quote

if TYPE_CHECKING:
    import numpy as np

    from utils.data.task import Task
    from utils.data.to_predict import TextsToPredict

BAR = 24  # characters of a probability of 1
SHOWN = 12  # labels shown of each text, besides those that are given to it
FEWEST_COMPARED = 50  # texts that are compared with those of the training; fewer were chosen for a reason
UNTRAINED = 0.5  # threshold of a label that no threshold was chosen for


@dataclass
class PredictArguments:
    """What to predict, and with what."""

    texts: list[str] | None = option(None, "texts to predict; the flag itself may be left out")
    model: str = option(None, "folder of a finished run, or its name on the Hub")
    file: str | None = option(
        None, "file with a text in every line, or a table: .csv, .tsv, .jsonl, .parquet or .xlsx, packed or not"
    )
    text_column: list[str] | None = option(None, "column of the table's texts, or several; left out: as in training")
    column_names: list[str] | None = option(None, "names of the table's columns, if it has no header")
    excel_sheet: str | None = option(None, "sheet of an Excel workbook; left out: the first")
    json: bool = option(False, "a line of JSON for each text: text, labels, probabilities")
    labels: list[str] | None = option(
        None, "labels to ask for instead of the run's own, also untrained ones; for runs with --ask_labels"
    )
    calibrate: bool = option(
        False, "make probabilities say how often they are right, by a curve of each label; labels stay as they are"
    )
    batch_size: int = option(32, "texts predicted at a time")
    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")
    check_weights: bool = option(False, "read the weights whole to check them, not their size and header alone")
    trust_remote_code: bool = option(
        False, "run the code that an adapter's base model brings; read it first. The code of a run never is"
    )

    def __post_init__(self):
        self.texts = self.texts or []
        if not self.model:
            raise UserError("--model is missing: name the folder of a finished run")
        if self.texts and self.file:
            raise UserError("give texts or --file, not both")
        for number, text in enumerate(self.texts, start=1):
            if not text.strip():
                raise UserError(f"text {number} on the command line is empty: leave it out")
        for name in ("text_column", "column_names", "excel_sheet"):
            if getattr(self, name) and not self.file:
                raise UserError(f"--{name} is for a table: give it by --file")
        check_column_names(self.column_names)
        if self.labels and len(set(self.labels)) < len(self.labels):
            raise UserError("--labels names a label twice")
        if self.labels and self.calibrate:
            raise UserError("--calibrate has curves of the labels of the training alone: leave out --labels")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: must be 1 or more")


def given_labels(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which labels a text is given, `[L]` of booleans; with thresholds of NaN, as `Thresholds` has them where each text
    has one label, the likeliest alone.

    Args:
        probabilities: `[L]`.
        thresholds: `[L]`.
    """
    if any(threshold != threshold for threshold in thresholds):
        return probabilities.argmax() == range(len(probabilities))
    return probabilities >= thresholds


def bar(probability: float, threshold: float, size: int = BAR) -> str:
    """A probability as a bar, its threshold as a thin line in it.

    Args:
        probability: from 0 to 1.
        threshold: likewise; NaN for no line.
        size: characters of a probability of 1.
    """
    full = round(probability * size)
    cells = ["█" if i < full else "·" for i in range(size)]
    if threshold == threshold:
        at = min(size - 1, int(threshold * size))
        cells[at] = "▏" if at >= full else "▉"
    return "".join(cells)


def show(
    text: str,
    labels: list[str],
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    given: np.ndarray,
    columns: int | None = None,
) -> str:
    """The labels of one text for a person, the likeliest first.

    Args:
        text: what was predicted.
        labels: their names, `[L]`.
        probabilities: `[L]`.
        thresholds: `[L]`.
        given: which labels it is given, `[L]` of booleans.
        columns: width of the terminal; names too long for it are cut, and bars are shortened.
    """
    labels = [printable(label) for label in labels]
    behind = [f"  threshold {t:.3f}" if t == t else "" for t in thresholds]
    order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
    order = [i for rank, i in enumerate(order) if rank < SHOWN or given[i]]
    width, size = max(len(labels[i]) for i in order), BAR
    if columns is not None:
        room = columns - len("  ✓   0.000    threshold 0.000")  # for name and bar
        width = min(width, max(8, room - 8))
        size = min(BAR, max(4, room - width))
    names = [label if len(label) <= width else label[: width - 1] + "…" for label in labels]
    lines = [
        f"  {'✓' if given[i] else ' '} {names[i].ljust(width)}  {probabilities[i]:.3f}  "
        f"{bar(probabilities[i], thresholds[i], size)}{behind[i]}"
        for i in order
    ]
    return "\n".join([printable(text), *lines, ""])


def json_line(
    text: str, labels: list[str], probabilities: np.ndarray, given: np.ndarray, key: str | None = None
) -> str:
    """A line of JSON with the labels of one text.

    Args:
        text: what was predicted.
        labels: their names, `[L]`.
        probabilities: `[L]`.
        given: which labels it is given, `[L]` of booleans.
        key: its id, if it has one.
    """
    scores = {name: round(float(p), 6) for name, p in zip(labels, probabilities)}
    row: dict[str, Any] = {} if key is None else {"id": key}
    row |= {"text": text, "labels": [name for name, yes in zip(labels, given) if yes], "probabilities": scores}
    return printable(json.dumps(row, ensure_ascii=not _prints_unicode()))


def _prints_unicode() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()


def texts_to_predict(args: PredictArguments, task: Task) -> Iterator[TextsToPredict]:
    """The texts in parts: from the command line, a table, the lines of a file, or standard input.

    Args:
        args: what the command line says.
        task: of the run.

    Raises:
        UserError: for a file that is not there, and a table without the column of texts.
    """
    from utils.core.files import is_there
    from utils.data.headers import Layout
    from utils.data.to_predict import in_parts, is_table, read_lines, read_rows, table_task

    if args.texts:
        return in_parts(args.texts)
    if args.file and not is_there(args.file):
        raise UserError(f"--file {quote(args.file)}: no such file")
    if not args.file or not is_table(args.file, task):
        return in_parts(read_lines(args.file))
    names = tuple(args.column_names) if args.column_names else None
    layout = Layout(column_names=names, sheet=args.excel_sheet).as_trained(task)
    return read_rows(args.file, layout, table_task(task, args.file, layout, args.text_column))


@script(__doc__, [PredictArguments], words="texts")
def main(args: PredictArguments) -> None:
    """Load the run, predict, print."""
    from utils.hub.pull import local_folder
    from utils.runs.folder import load_arguments, load_task

    # Refuse what is not there
    folder = local_folder(args.model, args.skip_checks, args.check_weights)
    parts = texts_to_predict(args, load_task(folder))
    if args.labels and not load_arguments(folder).get("ask_labels"):
        raise UserError("--labels is for runs that were trained with --ask_labels: leave it out")

    # Imported here because they load torch, and what is refused above should not.
    import numpy as np
    import transformers

    from utils.data.text import normalize
    from utils.doctor.drift import NewRows, Reference, compare, drift_text
    from utils.doctor.finding import problems_of
    from utils.runs.inference import load_run
    from utils.scoring.thresholds import Thresholds

    transformers.utils.logging.disable_progress_bar()
    run: Any = load_run(folder, args.trust_remote_code)
    if warning := problems_of(folder):
        print(warning, file=sys.stderr)
    stored = Thresholds.load(run.name, run.task.labels)
    thresholds = stored.values
    if args.labels:
        trained = dict(zip(run.task.labels, thresholds))
        run.ask(args.labels)
        untrained = np.nan if run.task.single_label else UNTRAINED
        thresholds = np.array([trained.get(label, untrained) for label in args.labels])
    task, calibrate, marks = run.task, np.asarray, thresholds
    if args.calibrate:
        if task.single_label:
            raise UserError(
                f"--calibrate is for labels that stand alone: {args.model} gives each text one label: leave it out"
            )
        if stored.calibration is None:
            raise UserError(f"--calibrate: {args.model} has no curves in its thresholds.json")
        calibrate = stored.calibration.apply
        marks = calibrate(thresholds)
    terminal: Any = sys.stdout  # None where it is closed
    if not _prints_unicode():
        terminal.reconfigure(errors="replace")  # a question mark for each sign that it does not have
    columns = get_terminal_size().columns if terminal is not None and terminal.isatty() else None
    new = NewRows()
    for part in parts:
        normalized = [normalize(text, task.normalize_users, task.normalize_urls) for text in part.texts]
        predicted = run.predict(normalized, args.batch_size).probabilities
        if not args.labels:
            new.add(normalized, stored.apply(predicted))
        for text, key, probabilities in zip(part.texts, part.ids or [None] * len(part.texts), predicted):
            if np.isnan(probabilities).any():
                raise UserError(
                    f"{args.model} gives a probability that is NaN for {quote(text)}: its weights are broken"
                )
            given, probabilities = given_labels(probabilities, thresholds), calibrate(probabilities)
            if args.json:
                print(json_line(text, task.labels, probabilities, given, key))
            else:
                shown = text if key is None else f"{key}: {text}"
                print(show(shown, task.labels, probabilities, marks, given, columns))
    reference = None if args.labels else Reference.load(folder, task.labels)
    if reference is not None and new.rows >= FEWEST_COMPARED:
        findings = compare(reference, new, run.tokenizer)
        if findings:
            print(drift_text(findings, new.rows), file=sys.stderr)


if __name__ == "__main__":
    main()
