"""Runs side by side: scores with intervals, and each against the best."""

from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from utils.runs.finished import approach, model_name, trainable_share
from utils.runs.groups import Scored, describe_runs, group_runs, joint_name, pool_folds, short_names
from utils.scoring.bootstrap import SCORES, Difference, interval, paired_difference, plain_scores, resample


@dataclass
class Score:
    """A score, over several seeds their mean, of several folds that of all rows together; interval over the rows.

    `sd`: over the seeds, else over the folds, None for a single run.
    """

    value: float
    low: float
    high: float
    sd: float | None
    values: np.ndarray  # [B], of the resamples

    def __str__(self):
        spread = "" if self.sd is None else f" ± {self.sd:.3f}"
        return f"{self.value:.3f}{spread} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Entry:
    """A row of the table: a run, the folds of one, several seeds of either, or a submission file.

    `members`: one `Scored` for each seed. `headline`: the suffix of the predictions it is ranked by.
    """

    name: str
    model: str
    approach: str
    runs: str
    members: list[Scored]
    headline: str
    folders: list[str] = field(default_factory=list)
    arguments: dict = field(default_factory=dict)
    trainable_share: float | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)  # summary name with its suffix
    label_f1: np.ndarray | None = None  # [L], of the headline predictions, mean over the members
    difference: Difference | None = None  # to the best, None for the best itself

    @property
    def headline_score(self):
        return self.scores[f"f1_macro{self.headline}"]

    @property
    def verdict(self):
        """`best`, `within noise` or `worse`."""
        if self.difference is None:
            return "best"
        return "within noise" if self.difference.is_noise else "worse"


@dataclass
class Board:
    """Entries that may be compared, as they were scored on the same rows; the best first."""

    entries: list[Entry]

    @property
    def labels(self):
        return self.entries[0].members[0].labels

    @property
    def rows(self):
        return len(self.entries[0].members[0].ids)


def make_entry(seeds, members, names):
    """The `Entry` of a group: runs and a `Scored` for each seed, `names` of the runs by folder."""
    runs = [run for folds in seeds for run in folds]

    def known(name):
        values = [run.results.get(name) for run in runs]
        return None if None in values else values

    seconds, memory = known("train_runtime"), known("peak_memory_bytes")
    return Entry(
        name=joint_name([names[run.folder] for run in runs]),
        model=model_name(runs[0].arguments),
        approach=approach(runs[0].arguments),
        runs=describe_runs(seeds),
        members=members,
        headline=runs[0].headline,
        folders=[run.folder for run in runs],
        arguments=runs[0].arguments,
        trainable_share=trainable_share(runs[0].results),
        train_seconds=None if seconds is None else sum(seconds) / len(seeds),  # of one seed, all its folds
        peak_memory_bytes=None if memory is None else max(memory),
    )


def validation_entries(runs):
    """Entries of runs by their own validation rows.

    Seeds that held out different rows (no validation file, split by the seed) come back as an entry each: their mean
    would be of different rows, and no interval of it could be paired with that of others.

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
        entries += [make_entry(*zip(*same), names) for same in by_rows.values()]
        if len(by_rows) > 1:
            folders = joint_name([names[run.folder] for folds in seeds for run in folds])
            notes.append(
                f"{folders} differ in the seed alone, but held out different rows: no mean over different rows"
            )
    return entries, notes


def fold_scores(member, suffix):
    """Scores of each fold's rows of a `Scored`, none where there are no folds."""
    folds = [] if member.folds is None else [member.folds == fold for fold in np.unique(member.folds)]
    return [plain_scores(member.truth[rows], member.predictions[suffix][rows]) for rows in folds]


def score_entry(entry, resamples, seed):
    """Fill in `entry.scores` and `entry.label_f1`. All members are resampled by the same draws of the rows."""
    for suffix in entry.members[0].predictions:
        plain = [plain_scores(member.truth, member.predictions[suffix]) for member in entry.members]
        drawn = [resample(member.truth, member.predictions[suffix], resamples, seed) for member in entry.members]
        spread = plain if len(plain) > 1 else fold_scores(entry.members[0], suffix)
        for name in SCORES:
            values = np.mean([getattr(one, name) for one in drawn], axis=0)
            sd = stdev(one[name] for one in spread) if len(spread) > 1 else None
            mean = fmean(one[name] for one in plain)
            entry.scores[f"{name}{suffix}"] = Score(mean, *interval(values), sd, values)
        if suffix == entry.headline:
            entry.label_f1 = np.mean([one["f1"] for one in plain], axis=0)


def make_boards(entries, resamples, seed):
    """Score entries and compare each with the best by macro-F1 of those scored on the same rows.

    Returns:
        list of `Board`, the one with most entries first.
    """
    by_rows = {}
    for entry in entries:
        score_entry(entry, resamples, seed)
        by_rows.setdefault(entry.members[0].rows, []).append(entry)
    boards = []
    for same_rows in by_rows.values():
        ranked = sorted(same_rows, key=lambda entry: -entry.headline_score.value)
        best = ranked[0].headline_score
        for entry in ranked[1:]:
            score = entry.headline_score
            entry.difference = paired_difference(score.value, best.value, score.values, best.values)
        boards.append(Board(ranked))
    return sorted(boards, key=lambda board: -len(board.entries))
