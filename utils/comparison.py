"""Runs side by side: seeds and folds brought together, intervals, and each against the best."""

import json
import os
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from utils.bootstrap import Difference, interval, paired_difference, plain_scores, resample
from utils.results import (
    AT_HALF,
    DECODED,
    TUNED,
    approach,
    format_bytes,
    format_seconds,
    format_share,
    model_name,
    trainable_share,
    validation_predictions,
)

SCORES = {"f1_macro": "macro-F1", "f1_micro": "micro-F1", "jaccard": "Jaccard"}
# Arguments in which the runs of one group may differ.
NOT_IN_KEY = ("seed", "data_seed", "fold", "output_dir", "run_name")


@dataclass
class Scored:
    """0/1 predictions of one run, or of all folds of one together, for rows with known labels; sorted by id."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    truth: np.ndarray  # [N, L]
    predictions: dict[str, np.ndarray]  # suffix of the summary scores: [N, L]

    def __post_init__(self):
        # The same rows and labels in the same order, whatever the order in which a run has them.
        rows = np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), dtype=np.int64)
        columns = np.array(sorted(range(len(self.labels)), key=self.labels.__getitem__), dtype=np.int64)
        self.ids = tuple(self.ids[row] for row in rows)
        self.labels = tuple(self.labels[column] for column in columns)
        self.truth = np.asarray(self.truth)[rows][:, columns]
        self.predictions = {name: array[rows][:, columns] for name, array in self.predictions.items()}

    @property
    def rows(self):
        """Equal where two may be compared: the same ids with the same true labels."""
        return self.ids, self.labels, self.truth.tobytes()


@dataclass
class Score:
    """A score, over several seeds their mean; `sd` over the seeds, None for one; the interval is over the rows."""

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


# Grouping


def group_key(arguments):
    """Equal for runs that differ in seed or fold alone."""
    skipped = set(NOT_IN_KEY)
    # Rows held out by seed or fold: other rows in each run, though of the same data.
    if is_fold(arguments) or not (arguments.get("validation_file") or arguments.get("validation_split")):
        skipped.add("data_sha256")
    return json.dumps({name: value for name, value in arguments.items() if name not in skipped}, sort_keys=True)


def is_fold(arguments):
    """Whether the run is one fold of several."""
    return bool(arguments.get("num_folds")) and arguments.get("fold") is not None


def group_runs(runs):
    """Bring runs together that differ in seed or fold alone.

    Returns:
        `(groups, notes)`: each group a list of seeds, each seed a list of runs (its folds, or the one run); and a line
        for each run left out, as another is the same seed and fold.
    """
    groups, notes = {}, []
    for run in runs:
        seeds = groups.setdefault(group_key(run.arguments), {})
        folds = seeds.setdefault((run.arguments.get("seed"), run.arguments.get("data_seed")), {})
        fold = run.arguments["fold"] if is_fold(run.arguments) else None
        if fold in folds:
            first = folds[fold].folder
            notes.append(f"{run.folder} has the same arguments, seed and fold as {first}: skipped")
        else:
            folds[fold] = run
    return [[list(folds.values()) for folds in seeds.values()] for seeds in groups.values()], notes


def short_names(folders):
    """`{folder: name}`, the names as short as they stay distinct."""
    parts = [os.path.normpath(folder).split(os.sep) for folder in folders]
    names = ["/".join(part) for part in parts]
    for length in range(1, max(map(len, parts), default=0)):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(short):
            names = short
            break
    return dict(zip(folders, names))


def joint_name(names):
    """One name for several, as the shell writes it: `seed{1,2,3}`."""
    if len(names) == 1:
        return names[0]
    start = names[0]
    while not all(name.startswith(start) for name in names):
        start = start[:-1]
    return f"{start}{{{','.join(name[len(start) :] for name in names)}}}"


def describe_runs(seeds):
    """`1`, `3 seeds`, `5 folds`, `3 seeds x 5 folds`, `4 of 5 folds`."""
    words = [f"{len(seeds)} seeds"] if len(seeds) > 1 else []
    folds, wanted = sum(map(len, seeds)), seeds[0][0].arguments.get("num_folds")
    if is_fold(seeds[0][0].arguments):
        whole = folds == wanted * len(seeds)
        words.append(f"{wanted} folds" if whole else f"{folds} of {wanted * len(seeds)} folds")
    return " x ".join(words) or "1"


def pool_folds(runs):
    """The out-of-fold predictions of runs as those of one, thresholds cross-fitted over all rows: a `Scored`.

    Raises:
        ValueError: where a row was held out by two of the runs.
    """
    if len(runs) == 1:
        run = runs[0]
        return Scored(tuple(run.ids), tuple(run.task.labels), run.truth, run.predictions)
    labels = runs[0].task.labels
    ids = [row_id for run in runs for row_id in run.ids]
    if len(set(ids)) < len(ids):
        raise ValueError("folds share rows")
    # Sorted, as the cross-fitting depends on the order of the rows and must not on that of the folders.
    order = sorted(range(len(ids)), key=ids.__getitem__)

    def together(arrays):
        return None if any(array is None for array in arrays) else np.concatenate(arrays)[order]

    columns = [[run.task.labels.index(label) for label in labels] for run in runs]
    truth = together([run.truth[:, c] for run, c in zip(runs, columns)])
    texts = together([None if run.texts is None else np.array(run.texts, dtype=object) for run in runs])
    predictions = validation_predictions(
        ids,
        texts,
        truth,
        together([run.probabilities[:, c] for run, c in zip(runs, columns)]),
        together([None if run.decoded is None else run.decoded[:, c] for run, c in zip(runs, columns)]),
        runs[0].strategy,
        runs[0].shrinkage,
    )
    return Scored(tuple(ids[i] for i in order), tuple(labels), truth, predictions)


def make_entry(seeds, names, members):
    """The `Entry` of a group: `names` of the runs by folder, `members` one `Scored` for each seed."""
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
    is of different rows, and no interval of it could be paired with that of others.

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
        if len({member.rows for member in members}) == 1:
            entries.append(make_entry(seeds, names, members))
            continue
        entries += [make_entry([folds], names, [member]) for folds, member in zip(seeds, members)]
        folders = joint_name([names[run.folder] for folds in seeds for run in folds])
        notes.append(f"{folders} differ in the seed alone, but held out different rows: no mean of them")
    return entries, notes


# Scores


def score_entry(entry, resamples, seed):
    """Fill in `entry.scores` and `entry.label_f1`. All members are resampled by the same draws of the rows."""
    for suffix in entry.members[0].predictions:
        plain = [plain_scores(member.truth, member.predictions[suffix]) for member in entry.members]
        drawn = [resample(member.truth, member.predictions[suffix], resamples, seed) for member in entry.members]
        for name in SCORES:
            values = np.mean([getattr(one, name) for one in drawn], axis=0)
            of_seeds = [one[name] for one in plain]
            sd = stdev(of_seeds) if len(of_seeds) > 1 else None
            entry.scores[f"{name}{suffix}"] = Score(fmean(of_seeds), *interval(values), sd, values)
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


# Tables


def score_rows(board, held):
    """`(header, rows)` of the table of scores; `held`: on held labels, so that nothing is cross-fitted."""
    has = {suffix for entry in board.entries for suffix in entry.members[0].predictions}
    columns = {AT_HALF: "macro-F1 at 0.5", TUNED: "macro-F1 tuned", DECODED: "macro-F1 decoded"}
    if held:
        columns[TUNED] = "macro-F1 as submitted"
    shown = [suffix for suffix in columns if suffix in has]
    header = ["run", "model", "approach", "runs", "trainable"]
    header += [columns[suffix] for suffix in shown] + ["against the best", "micro-F1", "Jaccard", "training", "memory"]
    rows = []
    for entry in board.entries:
        rest = [entry.scores[f"{name}{entry.headline}"].value for name in ("f1_micro", "jaccard")]
        rows.append(
            [entry.name, entry.model, entry.approach, entry.runs, format_share(entry.trainable_share)]
            + [str(entry.scores.get(f"f1_macro{suffix}", "-")) for suffix in shown]
            + [entry.verdict, *rest, format_seconds(entry.train_seconds), format_bytes(entry.peak_memory_bytes)]
        )
    return header, rows


def difference_rows(board):
    """`(header, rows)` of the paired bootstrap against the best."""
    header = ["run", "difference", "95 % interval", "p", "verdict"]
    rows = []
    for entry in board.entries[1:]:
        by = entry.difference
        p = "< 0.001" if by.p_value < 0.001 else f"{by.p_value:.3f}"
        rows.append([entry.name, f"{by.value:+.3f}", f"[{by.low:+.3f}, {by.high:+.3f}]", p, entry.verdict])
    return header, rows


def caption(board, held, resamples):
    """What the figures of a board are, in sentences."""
    of, chosen = "tuned predictions (at 0.5 where thresholds are fixed)", ""
    what = "Tuned: thresholds cross-fitted, each row scored with thresholds that were chosen without it."
    if held:
        of, what = (
            "submitted predictions",
            "As submitted: with the thresholds that each run has from its validation rows.",
        )
    elif any(entry.arguments.get("load_best_model_at_end") for entry in board.entries):
        chosen = " Checkpoints were chosen on these rows, so expect a little less on new ones."
    return (
        f"{board.rows:,} {'held' if held else 'validation'} rows, {len(board.labels)} labels. {what} micro-F1, Jaccard "
        f"and the order are of the {of}. In brackets: 95 % bootstrap interval over the rows ({resamples:,} resamples); "
        f"±: standard deviation over seeds.{chosen}"
    )


def differing_rows(board):
    """`(header, rows)` of the arguments in which the runs differ; no rows where they do not."""
    with_arguments = [entry for entry in board.entries if entry.arguments]
    names = {name: None for entry in with_arguments for name in entry.arguments if name not in NOT_IN_KEY}
    rows = []
    for name in names:
        values = [entry.arguments.get(name) for entry in with_arguments]
        if any(value != values[0] for value in values) and name != "data_sha256":
            rows.append([name, *(str(value) for value in values)])
    return ["argument", *(entry.name for entry in with_arguments)], rows


def csv_records(boards):
    """A flat record for each entry, figures unrounded, for a CSV file."""
    records = []
    for number, board in enumerate(boards, start=1):
        for entry in board.entries:
            record = {
                "row_set": number,
                "rows": board.rows,
                "run": entry.name,
                "folders": " ".join(entry.folders),
                "model": entry.model,
                "approach": entry.approach,
                "runs": entry.runs,
                "trainable_share": entry.trainable_share,
                "train_seconds": entry.train_seconds,
                "peak_memory_bytes": entry.peak_memory_bytes,
                "ranked_by": f"f1_macro{entry.headline}",
            }
            for suffix in (AT_HALF, TUNED, DECODED):
                for name in SCORES:
                    score = entry.scores.get(f"{name}{suffix}")
                    for part in ("value", "low", "high", "sd"):
                        key = f"{name}{suffix}" + ("" if part == "value" else f"_{part}")
                        record[key] = None if score is None else getattr(score, part)
            for part in ("value", "low", "high", "p_value"):
                key = "difference" if part == "value" else f"difference_{part}" if part != "p_value" else part
                record[key] = None if entry.difference is None else getattr(entry.difference, part)
            record["verdict"] = entry.verdict
            records.append(record)
    return records
