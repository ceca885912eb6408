"""Predicted rows: what a model says of some texts, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.files import atomic_path, read_part
from utils.core.shown import quote
from utils.data.splits import near_duplicate_groups
from utils.scoring.scores import AT_HALF, DECODED, TUNED
from utils.scoring.thresholds import ThresholdRule

if TYPE_CHECKING:  # loading it takes torch
    from utils.data.examples import Examples

PREDICTIONS_FILE = "predictions/validation.parquet"
UNKNOWN = -1  # in it: a cell that nobody has annotated
# An array, or None where it is not known. As `Any`, because who needs the array takes predictions that have it, which a
# type checker cannot see.
MaybeArray = np.ndarray | Any


@dataclass
class Predictions:
    """N rows with L labels; columns are in the order of `labels`.

    Args:
        labels: names of the labels, `[L]`.
        ids: `[N]`.
        texts: `[N]`, None where they are not known.
        truth: `[N, L]`, None where it is not known: 0/1 as int8; as float with NaN for cells that nobody has annotated,
            where there are such. Scores, thresholds and intervals take known cells alone into account.
        probabilities: `[N, L]`, None for 0/1 predictions of unknown origin, a submission file's.
        decoded: 0/1 array `[N, L]`, labels that were given without a threshold: a label generator's answers, or the
            cells of a submission file. None for others.
        folds: `[N]`, number of the fold that held a row out, None where there is one run.
        groups: `[N]`, equal for near-duplicates, where they are known already; see `near_duplicates`.
        figures: what an approach adds to the scores, by name.
    """

    labels: list[str]
    ids: list[str]
    texts: list[str] | Any = None
    truth: MaybeArray = None
    probabilities: MaybeArray = None
    decoded: MaybeArray = None
    folds: np.ndarray | None = None
    groups: np.ndarray | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_examples(cls, examples: Examples, labels: list[str], single_label: bool = False) -> Predictions:
        """The rows of examples, not predicted yet.

        Args:
            examples: N rows.
            labels: names of their labels, `[L]`.
            single_label: whether each text has one label.
        """
        figures: dict[str, float] = {} if examples.leaked is None else {"leaked_rows": int(examples.leaked.sum())}
        truth = examples.truth(single_label)
        return cls(labels, examples.ids, examples.texts, truth, groups=examples.groups, figures=figures)

    @cached_property
    def near_duplicates(self) -> np.ndarray:
        """Numbers of the groups of near-duplicates, `[N]`; each row is its own where the texts are not known."""
        if self.groups is not None:
            return self.groups
        return np.arange(len(self)) if self.texts is None else near_duplicate_groups(self.texts)

    def decide(self, rule: ThresholdRule) -> dict[str, np.ndarray]:
        """The 0/1 predictions `[P, N, L]` that scores are of, by the suffix of the scores' names.

        At 0.5, or the likeliest label where each text has one; with thresholds that `rule` chooses, cross-fitted, so
        that the truth must be known; and as decoded.
        Cross-fitted ones are those of P partitions of the rows, and a score is the mean over them; of others there is
        one set, P = 1. Where single rows are shown, it is the first set.
        """
        decisions = {AT_HALF: rule.decide_unfitted(self.probabilities)[None]}
        if not rule.is_fixed:
            decisions[TUNED] = rule.cross_fit(self.probabilities, self.truth, self.near_duplicates)
        if self.decoded is not None:
            decisions[DECODED] = self.decoded[None]
        return decisions

    def select(self, rows: np.ndarray) -> Predictions:
        """Some of the rows, given as numbers or as booleans `[N]`, in that order."""
        numbers = np.arange(len(self))[rows]

        def pick(values: list | np.ndarray | None) -> list | np.ndarray | None:
            if values is None:
                return None
            return [values[i] for i in numbers] if isinstance(values, list) else values[numbers]

        arrays = ("ids", "texts", "truth", "probabilities", "decoded", "folds", "groups")
        return replace(self, **{name: pick(getattr(self, name)) for name in arrays})

    def in_order(self, labels: list[str]) -> Predictions:
        """The same rows, the columns in the order of `labels`."""
        columns = [self.labels.index(label) for label in labels]
        arrays = {name: getattr(self, name) for name in ("truth", "probabilities", "decoded")}
        changed = {name: None if array is None else array[:, columns] for name, array in arrays.items()}
        return replace(self, labels=list(labels), **changed)

    @classmethod
    def join_folds(cls, parts: list[Predictions]) -> Predictions:
        """The rows that the folds of a run have held out, together; columns in the order of the first part.

        Several are sorted by id, as cross-fitting depends on the order of the rows and must not depend on that of the
        folders.
        """
        labels = parts[0].labels
        if len(parts) == 1:
            return parts[0]
        parts = [part.in_order(labels) for part in parts]

        def join(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                return None
            if isinstance(values[0], list):
                return [item for value in values for item in value]
            return np.concatenate(values)

        arrays = {name: join(name) for name in ("ids", "texts", "truth", "probabilities", "decoded")}
        folds = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        joined = cls(labels, **arrays, folds=folds)
        return joined.select(np.array(sorted(range(len(joined)), key=joined.ids.__getitem__), dtype=np.int64))

    @property
    def broken_rows(self) -> np.ndarray:
        """Numbers of the rows with a probability that is NaN: the model's weights are broken."""
        return np.flatnonzero(np.isnan(self.probabilities).any(axis=1))

    @property
    def repeats_a_row(self) -> bool:
        """Whether an id stands twice: two folds that held out the same row."""
        return len(set(self.ids)) < len(self)

    def save(self, folder: str | Path) -> None:
        """Write `predictions/validation.parquet` into a run folder.

        Its columns are id, text, truth/x (0, 1, or -1 for not annotated), probability/x and, where labels were decoded,
        decoded/x for each label x.
        """
        columns = {"id": self.ids, "text": self.texts}
        truth = np.nan_to_num(self.truth, nan=UNKNOWN).astype(np.int8)
        columns |= {f"truth/{label}": truth[:, i] for i, label in enumerate(self.labels)}
        columns |= {f"probability/{label}": self.probabilities[:, i] for i, label in enumerate(self.labels)}
        if self.decoded is not None:
            columns |= {f"decoded/{label}": self.decoded[:, i] for i, label in enumerate(self.labels)}
        with atomic_path(Path(folder) / PREDICTIONS_FILE) as temporary:
            pd.DataFrame(columns).to_parquet(temporary, index=False)

    @classmethod
    def load(cls, folder: str | Path, labels: list[str]) -> Predictions:
        """The validation predictions of a finished run, columns in the order of `labels`.

        Raises:
            UserError: for predictions that are missing or damaged, and for the first cell that cannot be right.
        """
        path = Path(folder) / PREDICTIONS_FILE
        if not path.is_file():
            raise UserError(
                f"the run in {folder} has lost its {PREDICTIONS_FILE}, which comparing runs and choosing thresholds "
                "again need: train it again, or use the folder that was trained, as texts are not pushed to the Hub"
            )

        def read(file: Path) -> Predictions:
            frame = pd.read_parquet(file)

            def columns(kind: str, dtype: type) -> np.ndarray:
                return frame[[f"{kind}/{label}" for label in labels]].to_numpy().astype(dtype)

            def cells(kind: str) -> np.ndarray:  # 0 and 1, before other values are cut to them
                values = columns(kind, float)
                unknown = (values == UNKNOWN) & (kind == "truth")
                check(values, (values == 0) | (values == 1) | unknown, kind, "is neither 0 nor 1")
                return np.where(unknown, np.nan, values) if unknown.any() else values.astype(np.int8)

            ids, texts = frame["id"].astype(str).tolist(), frame["text"].tolist()

            def check(values: np.ndarray, good: np.ndarray, kind: str, what: str) -> None:
                if not good.all():
                    row, column = np.argwhere(~good)[0]
                    value = values[row, column]
                    raise UserError(
                        f'{path}, row {row + 1} (id "{quote(ids[row])}"), column "{kind}/{quote(labels[column])}" '
                        f"{'is NaN' if np.isnan(value) else f'holds {value:g}, which {what}'}: "
                        "copy the folder again, or train the run again"
                    )

            probabilities = columns("probability", float)
            check(probabilities, (probabilities >= 0) & (probabilities <= 1), "probability", "is no probability")
            decoded = cells("decoded") if f"decoded/{labels[0]}" in frame else None
            if not ids or not all(isinstance(text, str) for text in texts):
                raise ValueError("no rows, or rows without a text")
            repeated = pd.Series(ids).duplicated()
            if repeated.any():
                row = int(np.flatnonzero(repeated)[0])
                raise UserError(
                    f'{path}, row {row + 1}, column "id": the id "{quote(ids[row])}" stands in an earlier row too: '
                    "copy the folder again, or train the run again"
                )
            return cls(list(labels), ids, texts, cells("truth"), probabilities, decoded)

        return read_part(folder, PREDICTIONS_FILE, read)
