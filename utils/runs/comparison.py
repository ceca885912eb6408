"""Runs side by side: scores with intervals, and each against the best."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from utils.core.arguments import ARGMAX
from utils.core.errors import UserError
from utils.models.approaches import describe_approach
from utils.runs.finished import FinishedRun, model_name, trainable_share
from utils.runs.groups import describe_runs, group_runs, join_folds, joint_name, short_names
from utils.scoring.bootstrap import (
    Drawn,
    interval,
    plain_scores,
    resample,
    resample_probabilities,
)
from utils.scoring.differences import (
    FACTOR,
    Comparison,
    Contender,
    Difference,
    Spread,
    factor_of,
    pooled_spread,
    widened,
)
from utils.scoring.predictions import Predictions
from utils.scoring.scores import OF_PREDICTIONS, OF_PROBABILITIES, Score, by_name
from utils.scoring.thresholds import ThresholdRule

# A kind of predictions, beside those of `utils.scoring.scores.KINDS`: the probabilities themselves.
PROBABILITIES = "probabilities"


@dataclass
class Scored:
    """Predictions of one run, or of all folds of one together, for rows whose truth is known.

    Rows are sorted by id and columns by name, so that the same rows and labels are in the same order in any run.

    Args:
        predictions: of the rows.
        decisions: 0/1 predictions `[P, N, L]` by the suffix of the scores that they have.
        drawn: scores of resamples that are worked out already; see `resampled`.
    """

    predictions: Predictions
    decisions: dict[str, np.ndarray]
    drawn: dict[tuple, Drawn] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        rows = np.array(sorted(range(len(self.predictions)), key=self.predictions.ids.__getitem__), dtype=np.int64)
        labels = sorted(self.predictions.labels)
        columns = [self.predictions.labels.index(label) for label in labels]
        self.predictions = self.predictions.select(rows).in_order(labels)
        self.decisions = {kind: array[:, rows][:, :, columns] for kind, array in self.decisions.items()}

    @property
    def truth(self) -> np.ndarray:
        """0/1 array `[N, L]`, NaN where nobody has annotated a cell."""
        return self.predictions.truth

    def resampled(self, kind: str, resamples: int, seed: int, groups: np.ndarray) -> Drawn:
        """Scores of a kind of its decisions on draws of the rows, once for all comparisons that it is part of.

        Args:
            kind: suffix of the scores, or `PROBABILITIES`.
            resamples: number of draws.
            seed: of the draws.
            groups: `[N]`, equal for rows that are drawn together.
        """
        key = (kind, resamples, seed, groups.tobytes())
        if key not in self.drawn:
            of_probabilities = kind == PROBABILITIES
            predicted = self.predictions.probabilities if of_probabilities else self.decisions[kind]
            draw = resample_probabilities if of_probabilities else resample
            self.drawn[key] = draw(self.truth, predicted, resamples, seed, groups)
        return self.drawn[key]

    @property
    def rows(self) -> tuple:
        """Equal where two may be compared: the same ids with the same true labels."""
        truth = np.nan_to_num(self.truth, nan=-1).astype(np.int8)
        return tuple(self.predictions.ids), tuple(self.predictions.labels), truth.tobytes()


def pool_folds(runs: list[FinishedRun]) -> Scored:
    """The out-of-fold predictions of runs as those of one, thresholds cross-fitted over all rows.

    Raises:
        ValueError: where two of the runs held out the same row.
    """
    predictions = join_folds(runs)
    if predictions.repeats_a_row:
        raise ValueError("folds share rows")
    return Scored(predictions, predictions.decide(runs[0].thresholds.rule))


@dataclass
class Estimate:
    """A score of one row of the table.

    Args:
        value: over several seeds their mean, over several folds that of all rows together.
        sd: over the seeds, else over the folds; None for a single run.
        over: what `sd` is over, `3 seeds` or `5 folds`.
        low: of the interval over the rows, and over the seeds where their spread is known.
        high: likewise.
        values: of each seed in each of the resamples of the rows, `[S, B]`.
        spread: over the seeds, that is in the interval, of its own or of other runs; None where it is not known.
    """

    value: float
    sd: float | Any
    over: str
    low: float
    high: float
    values: np.ndarray
    spread: Spread | None = None

    def widen(self, spread: Spread, seeds: int) -> None:
        """Add the luck of the training to the interval: a spread over seeds, of which the score is a mean."""
        self.spread = spread
        self.low = max(0.0, self.value - widened(self.value - self.low, spread, seeds))
        self.high = min(1.0, self.value + widened(self.high - self.value, spread, seeds))

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation over the seeds that is in the interval."""
        return None if self.spread is None else self.spread.sd

    @property
    def without_spread(self) -> str:
        """The score with its interval."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:.3f} ({self.over})"
        return f"{self.value:.3f}{spread} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Entry:
    """A row of the table: a run, the folds of one, several seeds of either, or a submission file.

    Args:
        name: short, as the table shows it.
        model: name of the base model.
        approach: in words.
        runs: how many seeds and folds, in words.
        members: the predictions of each seed.
        headline: the suffix of the predictions it is ranked by.
        best_by: name of the score that it was trained for, None where that is not known.
        chosen_by: how the thresholds of its headline predictions were chosen on the rows that are scored, None where
            they were not.
        folders: of the runs; none for a submission file.
        arguments: run_args.json of the first run.
        results: all_results.json of each run.
        trainable_share: trainable / all parameters.
        train_seconds: of one seed, its folds together.
        peak_memory_bytes: the highest of the runs.
        scores: by name, with the suffix of the predictions behind it.
        label_f1: of the headline predictions, mean over the members, with the ends of its intervals over the rows:
            value, low and high, `[3, L]`.
        difference: to the best, None for the best itself.
    """

    name: str
    model: str
    approach: str
    runs: str
    members: list[Scored]
    headline: str
    chosen_by: ThresholdRule | None = None
    best_by: str | None = None
    folders: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    trainable_share: float | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    scores: dict[str, Estimate] = field(default_factory=dict)
    label_f1: np.ndarray | Any = None
    difference: Difference | Any = None

    def main_score(self, score: Score) -> Estimate:
        """A score of what it is ranked by: its headline predictions, or its probabilities."""
        return self.scores[score.name if score.of_probabilities else f"{score.name}{self.headline}"]

    @property
    def gives_one_label(self) -> bool:
        """Whether each row is given exactly one label, the likeliest; a submission file shows it in its cells."""
        first = self.members[0]
        if not self.arguments:
            return bool((first.decisions[self.headline].sum(axis=2) == 1).all())
        return self.arguments.get("threshold_strategy") == ARGMAX

    @property
    def verdict(self) -> str:
        """`best`, `not distinguishable` from it, or `worse`."""
        if self.difference is None:
            return "best"
        return "worse" if self.difference.is_distinguishable else "not distinguishable"


@dataclass
class Board:
    """Entries that may be compared, as they were scored on the same rows; the best first.

    Args:
        entries: K of them.
        comparison: of their main scores, in the same order.
        main: the score that they are ranked by.
    """

    entries: list[Entry]
    comparison: Comparison
    main: Score

    @property
    def main_scores(self) -> list[Estimate]:
        """What the entries are ranked by, `[K]`."""
        return [entry.main_score(self.main) for entry in self.entries]

    @property
    def one_decision(self) -> bool:
        """Whether each row takes one decision in all entries: one label per text, or one label in all."""
        return len(self.labels) == 1 or all(entry.gives_one_label for entry in self.entries)

    @property
    def labels(self) -> list[str]:
        """Names of the labels, `[L]`."""
        return self.entries[0].members[0].predictions.labels

    @property
    def truth(self) -> np.ndarray:
        """0/1 array `[N, L]`."""
        return self.entries[0].members[0].truth


def make_entry(seeds: list[list[FinishedRun]], members: list[Scored], names: dict[str, str]) -> Entry:
    """The row of a group of runs, not scored yet.

    Args:
        seeds: the runs of each seed, which are its folds.
        members: the predictions of each seed.
        names: of the runs by folder.
    """
    runs = [run for folds in seeds for run in folds]

    def known(name: str) -> list | None:
        values = [run.results.get(name) for run in runs]
        return None if None in values else values

    seconds, memory = known("train_runtime"), known("peak_memory_bytes")
    return Entry(
        name=joint_name([names[run.folder] for run in runs]),
        model=model_name(runs[0].arguments),
        approach=describe_approach(runs[0].arguments),
        runs=describe_runs(seeds),
        members=members,
        headline=runs[0].headline,
        chosen_by=runs[0].thresholds.rule,
        best_by=runs[0].thresholds.rule.best_by,
        folders=[run.folder for run in runs],
        arguments=runs[0].arguments,
        results=[run.results for run in runs],
        trainable_share=trainable_share(runs[0].results),
        train_seconds=None if seconds is None else sum(seconds) / len(seeds),
        peak_memory_bytes=None if memory is None else max(memory),
    )


def validation_entries(runs: list[FinishedRun]) -> tuple[list[Entry], list[str]]:
    """The rows of runs by their own validation predictions.

    Seeds that held out different rows (no validation file, split by the seed) come back as a row each: their mean would
    be of different rows, and no interval of it could be paired with that of others.

    Returns:
        `(entries, notes)`: notes say in a line each what was left out or kept apart.
    """
    groups, notes = group_runs(runs)
    names = short_names([run.folder for run in runs])
    entries = []
    for seeds in groups:
        try:
            members = [pool_folds(folds) for folds in seeds]
        except ValueError:
            folders = ", ".join(run.folder for folds in seeds for run in folds)
            notes.append(f"{folders}: folds of one run that hold out the same rows: skipped")
            continue
        by_rows = {}
        for folds, member in zip(seeds, members):
            by_rows.setdefault(member.rows, []).append((folds, member))
        for same in by_rows.values():
            entries.append(make_entry([folds for folds, _ in same], [member for _, member in same], names))
        if len(by_rows) > 1:
            folders = joint_name([names[run.folder] for folds in seeds for run in folds])
            notes.append(
                f"{folders} differ in the seed alone, but held out different rows: no mean over different rows"
            )
    return entries, notes


def _fold_rows(member: Scored) -> list[np.ndarray]:
    """Which rows each fold held out, `[N]` of booleans; none where there are no folds."""
    folds = member.predictions.folds
    return [] if folds is None else [folds == fold for fold in np.unique(folds)]


def _spread(of_seeds: list[float], of_folds: list[float]) -> tuple[float | None, str]:
    """Standard deviation of a score over the seeds, of a single seed over its folds, and over what in words."""
    values, what = (of_seeds, "seeds") if len(of_seeds) > 1 else (of_folds, "folds")
    return (stdev(values), f"{len(values)} {what}") if len(values) > 1 else (None, "")


def _score_entry(entry: Entry, resamples: int, seed: int, groups: np.ndarray) -> None:
    """Fill in `entry.scores` and `entry.label_f1`. All members are resampled by the same draws of the rows.

    Args:
        entry: of N rows.
        resamples: B.
        seed: of the draws.
        groups: `[N]`, equal for rows that are drawn together.
    """
    first = entry.members[0]

    def estimate(of_seeds: list[float], of_folds: list[float], values: np.ndarray) -> Estimate:
        mean = fmean(of_seeds)
        return Estimate(mean, *_spread(of_seeds, of_folds), *interval(values.mean(axis=0), mean), values)

    def drawn(kind: str) -> list[Drawn]:
        return [member.resampled(kind, resamples, seed, groups) for member in entry.members]

    for kind in first.decisions:
        plain = [plain_scores(member.truth, member.decisions[kind]) for member in entry.members]
        folds = [plain_scores(first.truth[rows], first.decisions[kind][:, rows]) for rows in _fold_rows(first)]
        draws = drawn(kind)
        for name in (score.name for score in OF_PREDICTIONS):
            values = np.array([one[name] for one in draws])
            entry.scores[f"{name}{kind}"] = estimate([one[name] for one in plain], [one[name] for one in folds], values)
        if kind == entry.headline:
            f1 = np.mean([one["f1"] for one in plain], axis=0)
            entry.label_f1 = np.stack([f1, *interval(np.mean([one["f1"] for one in draws], axis=0), f1)])
    if any(member.predictions.probabilities is None for member in entry.members):
        return
    draws = drawn(PROBABILITIES)
    for score in OF_PROBABILITIES:

        def compute(member: Scored, rows: np.ndarray | slice = slice(None)) -> float:
            return score.compute(member.truth[rows], member.predictions.probabilities[rows])  # noqa: B023

        values = np.array([one[score.name] for one in draws])
        of_folds = [compute(first, rows) for rows in _fold_rows(first)]
        entry.scores[score.name] = estimate([compute(member) for member in entry.members], of_folds, values)


def _add_seeds(entries: list[Entry], name: str) -> None:
    """Widen the intervals of a score by the luck of the training.

    Its spread is that over an entry's own seeds; one with a single seed has that of the others, if any has several.

    Args:
        entries: of one board.
        name: of the score, with the suffix of the predictions.
    """
    spreads = {
        number: Spread(entry.scores[name].sd, len(entry.members) - 1)
        for number, entry in enumerate(entries)
        if len(entry.members) > 1
    }
    pooled = pooled_spread(list(spreads.values()))
    for number, entry in enumerate(entries):
        spread = spreads.get(number, pooled)
        if spread is not None:
            entry.scores[name].widen(spread, len(entry.members))


def choose_main(entries: list[Entry], asked_for: str | None) -> Score:
    """The score that entries are ranked by: the one asked for, else what all of them were trained for, else macro-F1.

    Raises:
        UserError: for a score of probabilities that some of them do not have.
    """
    trained_for = {entry.best_by for entry in entries if entry.best_by is not None}
    main = by_name(asked_for or (trained_for.pop() if len(trained_for) == 1 else "f1_macro"))
    without = [entry for entry in entries if main.of_probabilities and main.name not in entry.scores]
    if without and asked_for:
        raise UserError(f"--best_by {main.name}: {without[0].name} has no probabilities: choose another score")
    return by_name("f1_macro") if without else main


def _make_board(entries: list[Entry], resamples: int, seed: int, best_by: str | None) -> Board:
    """Score and rank entries of the same rows, and compare each with the best."""
    texts = [member.predictions for entry in entries for member in entry.members if member.predictions.texts]
    groups = (texts or [entries[0].members[0].predictions])[0].near_duplicates
    for entry in entries:
        _score_entry(entry, resamples, seed, groups)
    main = choose_main(entries, best_by)
    ranked = sorted(entries, key=lambda entry: -entry.main_score(main).value)
    for name in {name: None for entry in ranked for name in entry.scores}:
        _add_seeds([entry for entry in ranked if name in entry.scores], name)
    contenders = []
    for entry in ranked:
        score = entry.main_score(main)
        nothing_chosen = entry.chosen_by is None or main.of_probabilities
        factor = FACTOR if nothing_chosen else factor_of(entry.chosen_by)
        contenders.append(Contender(score.value, score.values, score.spread, factor))
    comparison = Comparison(contenders, seed)
    for number, entry in enumerate(ranked[1:], start=1):
        entry.difference = comparison.difference(number, 0)
    return Board(ranked, comparison, main)


def make_boards(entries: list[Entry], resamples: int, seed: int, best_by: str | None = None) -> list[Board]:
    """Score entries, and compare each with the best of those scored on the same rows.

    Args:
        entries: of `validation_entries` or `utils.runs.held_labels`.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        best_by: name of the score that they are ranked by; None: see `choose_main`.

    Returns:
        the boards, the one with most entries first.
    """
    by_rows = {}
    for entry in entries:
        by_rows.setdefault(entry.members[0].rows, []).append(entry)
    boards = [_make_board(same_rows, resamples, seed, best_by) for same_rows in by_rows.values()]
    return sorted(boards, key=lambda board: -len(board.entries))
