"""What the doctor says of runs that were spoiled on purpose, each for another reason, and of sound ones.

    python -m benchmarks.doctor

Fine-tunes all-MiniLM-L6-v2 on six labels of sample_data through run_classifier.py, a minute of one core for each run,
and keeps what the doctor said of each in benchmarks/results/doctor.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.figures import stored
from utils.core.files import write_json
from utils.doctor.finding import Diagnosis
from utils.scoring.scores import with_interval

LABELS = ["anger", "disgust", "fear", "joy", "optimism", "sadness"]
RARE = "surprise"
SAMPLE = Path(__file__).parents[1] / "sample_data"
Rows = tuple[pd.DataFrame, pd.DataFrame]


@dataclass
class Case:
    """A run, and what was done to it.

    Args:
        name: of the case.
        expected: the finding that names what was done; empty for a sound run.
        spoil: function of training and validation rows that gives those that the run has.
        flags: that differ from those of a sound run.
        frozen: whether the head gets no gradients.
    """

    name: str
    expected: str = ""
    spoil: Callable[[pd.DataFrame, pd.DataFrame], Rows] | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    frozen: bool = False


def shuffled_labels(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Training labels on other rows than their own."""
    train = train.copy()
    columns = train.columns[2:]
    train[columns] = train[columns].sample(frac=1, random_state=0).to_numpy()
    return train, validation


def exchanged_columns(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Two label columns of the validation file exchanged."""
    return train, validation.rename(columns={"anger": "joy", "joy": "anger"})[validation.columns]


def leaked(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Half of the validation rows in the training file too, with a hashtag more, twice."""
    copies = validation.iloc[::2].copy()
    copies["ID"], copies["Tweet"] = "copy-" + copies["ID"], copies["Tweet"] + " #again"
    return pd.concat([train, copies, copies.assign(ID="again-" + copies["ID"])]), validation


def other_rates(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Validation rows drawn by label: few of those without joy."""
    kept = (validation["joy"] == 1) | (np.arange(len(validation)) % 4 == 0)
    return train, validation[kept]


def other_script(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Validation texts in Cyrillic letters."""
    table = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопкрстуввхуз")
    return train, validation.assign(Tweet=validation["Tweet"].str.lower().str.translate(table))


def in_emoji(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """Every second word an emoji that the model does not know, in three of four texts."""

    def told(rows: pd.DataFrame) -> pd.DataFrame:
        texts = [text.split() for text in rows["Tweet"]]
        for i, words in enumerate(texts):
            if i % 4:
                words[1::2] = ["🤬"] * len(words[1::2])
        return rows.assign(Tweet=[" ".join(words) for words in texts])

    return told(train), told(validation)


def wrong_cells(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """A tenth of the cells of the validation labels turned round."""
    validation = validation.copy()
    cells = validation[LABELS].to_numpy()
    turned = np.random.default_rng(0).random(cells.shape) < 0.1
    validation[LABELS] = np.where(turned, 1 - cells, cells)
    return train, validation


def never_seen(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """No training row has the label fear."""
    return train[train["fear"] == 0], validation


def few_rows(train: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    """A quarter of the training rows."""
    return train[:120], validation


CASES = [
    Case("sound"),
    Case("sound, another seed", flags={"seed": 7}),
    Case("sound, focal loss", flags={"loss": "focal"}),
    Case("frozen head", "not_trained", frozen=True, flags={"weight_decay": 0}),
    Case("learning rate 1", "same_for_every_text", flags={"learning_rate": 1}),
    Case("one epoch", "same_for_every_text", flags={"num_train_epochs": 1}),
    Case("stopped early", "still_learning", flags={"num_train_epochs": 2, "lr_scheduler_type": "constant"}),
    Case("few rows, many epochs", "overfitted", few_rows, {"num_train_epochs": 30, "lr_scheduler_type": "constant"}),
    Case("shuffled training labels", "chance", shuffled_labels),
    Case("exchanged columns in validation", "exchanged_labels", exchanged_columns),
    Case("validation rows leaked into training", "leaks", leaked),
    Case("validation drawn by label", "rates_differ", other_rates),
    Case("validation in another script", "scripts_differ", other_script),
    Case("words as emoji", "unknown_tokens", in_emoji),
    Case("texts cut", "texts_cut", flags={"max_length": 8}),
    Case("a label with few rows", "few_rows", flags={"label_columns": [*LABELS, RARE]}),
    Case("wrong labels in validation", "mislabelled", wrong_cells),
    Case("a label not in training", "never_seen", never_seen),
    Case("positive cells weighed 3000", "same_for_every_text", flags={"pos_weight": 3000}),
]


def train_case(case: Case, folder: Path) -> dict[str, Any]:
    """Train on a case in a folder; returns its scores and what the doctor said."""
    import run_classifier

    rows = pd.read_csv(SAMPLE / "train.csv"), pd.read_csv(SAMPLE / "validation.csv")
    train, validation = case.spoil(*rows) if case.spoil else rows
    folder.mkdir()
    train.to_csv(folder / "train.csv", index=False)
    validation.to_csv(folder / "validation.csv", index=False)
    flags = {
        "config": "recipes/minilm_cpu.yaml",
        "train_file": folder / "train.csv",
        "validation_file": folder / "validation.csv",
        "output_dir": folder / "run",
        "label_columns": LABELS,
        "report": False,
        "disable_tqdm": True,
    } | case.flags
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _heads(case.frozen):
        run_classifier.main(words)
    diagnosis = Diagnosis.load(folder / "run")
    assert diagnosis is not None
    scores = {row["name"]: _rounded(row["f1_macro"]) for row in diagnosis.baselines}
    return {
        "expected": case.expected,
        "findings": [vars(finding) | {"so": diagnosis.consequences(finding)} for finding in diagnosis.findings],
        "headline": diagnosis.headline,
        "macro_f1": scores,
        "cpu_seconds": round(time.process_time() - started),
    }


def _rounded(cell: dict[str, float]) -> dict[str, float]:
    """A score and the ends of its 95 % bootstrap interval."""
    return {name: round(cell[name], 3) for name in ("value", "value_low", "value_high") if name in cell}


@contextlib.contextmanager
def _heads(frozen: bool):
    """Within it new heads get no gradients, past the preflight, which refuses a head that is not trained."""
    from utils.models import classifier

    load = classifier.load_with_head

    def without_gradients(*args: Any, **options: Any) -> Any:
        model = load(*args, **options)
        for parameter in model.classifier.parameters():
            parameter.register_hook(lambda gradient: None if gradient is None else gradient * 0)
        return model

    if frozen:
        classifier.load_with_head = without_gradients
    try:
        yield
    finally:
        classifier.load_with_head = load


def show(results: dict[str, Any]) -> str:
    """The table as text: a case, its score beside the linear model's, and what the doctor said."""
    parts = []
    for name, result in results.items():
        scores = [with_interval(score, "value") for score in result["macro_f1"].values()]
        lines = [f"{name} (macro-F1 {scores[0]}, TF-IDF {scores[-1]}, {result['cpu_seconds']} CPU s)"]
        for one in result["findings"]:
            lines += [f"  {one['severity']}: {one['what']}", *([f"    {one['so']}"] if one["so"] else [])]
        lines += [] if result["findings"] else ["  nothing wrong"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def is_as_expected(result: dict[str, Any]) -> bool:
    """Whether a finding of a spoiled run names what was done to it, and no other is a problem; a sound one has none."""
    kinds = {finding["kind"]: finding["severity"] for finding in result["findings"]}
    if not result["expected"]:
        return not kinds
    return kinds.pop(result["expected"], None) is not None and "problem" not in kinds.values()


def main() -> None:
    """Train all cases, or those named, and write and print what was said of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", help="names of the cases; left out: all")
    parser.add_argument("--results", default="benchmarks/results/doctor.json")
    args = parser.parse_args()
    named = [case for case in CASES if not args.cases or case.name in args.cases]
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(named):
            result = train_case(case, Path(folder) / str(number))
            print(show({case.name: result}), end="\n\n", flush=True)
            save(args.results, case.name, result)
    results = stored(args.results)
    wrong = [name for name, result in results.items() if not is_as_expected(result)]
    print(f"{len(results) - len(wrong)} of {len(results)} as expected; others: {', '.join(wrong) or 'none'}")


def save(path: str, name: str, result: dict[str, Any]) -> None:
    """Put the result of a case into the results file, in the order of the cases."""
    results = stored(path) | {name: result}
    ordered = {case.name: results[case.name] for case in CASES if case.name in results}
    about = {"date": date.today().isoformat(), "command": "python -m benchmarks.doctor"}
    write_json(path, about | {"results": ordered})


if __name__ == "__main__":
    main()
