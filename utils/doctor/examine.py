"""All checks of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.doctor.bars import count_rows, rank, some_rows
from utils.doctor.baselines import check_baselines, compare_with_baselines, linear_at_chance, training_rows
from utils.doctor.causes import name_causes
from utils.doctor.finding import Check, Diagnosis
from utils.doctor.mislabelled import check_mislabelled
from utils.doctor.predicted import (
    beside_linear,
    check_chance,
    check_given,
    check_spread,
    check_support,
    check_swapped,
)
from utils.doctor.progress import check_learning, check_progress, check_time_limit
from utils.doctor.rows import check_cut, check_label_sets, check_leaks, check_rates, check_texts, check_unknown
from utils.doctor.texts import MOST_TEXTS, TextFigures, Unknown, find_unknown
from utils.scoring.scores import AT_HALF, TUNED, by_name, half_width_of, on_known_cells

if TYPE_CHECKING:  # loading these takes torch
    from transformers import PreTrainedTokenizerBase, Trainer

    from utils.data.examples import Examples
    from utils.scoring.evaluation import Evaluation
    from utils.scoring.predictions import Predictions


@dataclass
class Training:
    """What is known of a training, for the doctor.

    Args:
        rows: the training rows.
        lengths: tokens that the model sees of them, `[M]`.
        full_lengths: tokens of the whole texts, `[M]`.
        max_length: what texts are cut to.
        log_history: of Trainer.
        metrics: of Trainer at its end.
        leaked: which validation rows have a near-duplicate among the training rows, `[N]` of booleans.
        best_is_kept: whether the run goes back to its best evaluation.
    """

    rows: Examples
    lengths: np.ndarray
    full_lengths: np.ndarray
    max_length: int
    log_history: Sequence[Mapping[str, Any]] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    best_is_kept: bool = True
    leaked: np.ndarray | None = None

    @classmethod
    def of(
        cls, train: Examples, validation: Examples, trainer: Trainer, metrics: Mapping[str, Any], max_length: int
    ) -> Training:
        """What a trainer and its data know of a training.

        Args:
            train: the training rows.
            validation: the validation rows.
            trainer: that has trained.
            metrics: of its training.
            max_length: what texts are cut to.
        """
        tokens: Any = trainer.train_dataset
        lengths, full_lengths = (np.array(tokens[name][:]) for name in ("length", "full_length"))
        best_is_kept = bool(trainer.args.load_best_model_at_end)
        history = trainer.state.log_history
        return cls(train, lengths, full_lengths, max_length, history, metrics, best_is_kept, validation.leaked)


def examine(
    evaluation: Evaluation,
    results: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    training: Training | None,
    with_linear: bool = True,
) -> Diagnosis:
    """Look at a finished run.

    Of many validation rows a sample is looked at, the same each time.

    Args:
        evaluation: of the validation rows.
        results: their scores with intervals, under the names of all_results.json.
        tokenizer: of the model.
        training: what was trained; None for a model that is used as it is.
        with_linear: whether a linear model is trained for comparison.
    """
    everything = evaluation.predictions
    labels, chosen = everything.labels, some_rows(len(everything))
    predictions = everything.select(chosen)
    kind = TUNED if TUNED in evaluation.decisions else AT_HALF
    decided = evaluation.decisions[kind][:, chosen]
    truth, probabilities, thresholds = predictions.truth, predictions.probabilities, evaluation.thresholds
    ranking = rank(truth, probabilities)
    train_labels = None if training is None else training.rows.truth(thresholds.rule.gives_one_label)
    counted = None if train_labels is None else count_rows(train_labels)

    ranked = evaluation.metrics[half_width_of("roc_auc_macro")]
    spread, same = check_spread(labels, probabilities, count_rows(truth) if counted is None else counted)
    checks = [spread, check_chance(labels, ranking, same, ranked), check_swapped(labels, truth, probabilities)]
    baselines = []
    if training is not None and train_labels is not None:
        texts, some_labels = _training_sample(training.rows, train_labels) if with_linear else (None, train_labels)
        baselines = compare_with_baselines(predictions, decided, thresholds.rule, texts, some_labels)
        main = by_name(thresholds.rule.best_by)
        score = f"eval_{main.name}" + ("" if main.of_probabilities else kind)
        checks.append(check_baselines(baselines, main.name))
        at_chance = linear_at_chance(baselines)
        if at_chance is not None:
            checks = [beside_linear(check, at_chance) for check in checks]
        checks.append(check_time_limit(training.metrics))
        checks.append(check_learning(int(training.metrics.get("unchanged_tensors", 0)), None))
        checks.append(check_course(training, results, score))
    checks += check_given(labels, truth, probabilities, thresholds, same)
    low = np.array([results.get(f"eval_f1_low/{label}", 0.0) for label in labels])
    checks.append(check_support(labels, truth, None if counted is None else counted[0], low, ranking))
    reference: dict[str, Any] = {
        "labels": labels,
        "rows": len(truth),
        "given": thresholds.apply(probabilities).sum(axis=0).tolist(),
        "train_positives": [0] * len(labels) if counted is None else counted[0].tolist(),
        "train_annotated": [0] * len(labels) if counted is None else counted[1].tolist(),
        "texts": None,
    }
    if training is not None and train_labels is not None:
        right = _jaccard(truth, decided[0])
        leaked = None if training.leaked is None else training.leaked[chosen]
        figures, more = _check_rows(training, everything, predictions, right, leaked, tokenizer, train_labels)
        checks += more
        reference["texts"] = asdict(figures)
    checks.append(check_mislabelled(labels, truth, probabilities))
    return Diagnosis(name_causes(checks), baselines, reference)


def _check_rows(
    training: Training,
    everything: Predictions,
    predictions: Predictions,
    right: np.ndarray,
    leaked: np.ndarray | None,
    tokenizer: PreTrainedTokenizerBase,
    train_labels: np.ndarray,
) -> tuple[TextFigures, list[Check]]:
    """The training texts in figures, and what the checks of rows say.

    Args:
        training: what was trained.
        everything: all validation rows.
        predictions: those that are looked at.
        right: Jaccard index of these, `[N]`.
        leaked: which of these have a near-duplicate in training, `[N]` of booleans; None where it is not known.
        tokenizer: of the model.
        train_labels: of all training rows, 0, 1 or NaN, `[M, L]`.
    """
    rows = training.rows
    train_texts = rows.rows.select(some_rows(len(rows), MOST_TEXTS))["text"][:]
    figures = TextFigures.of(train_texts, tokenizer)
    validation = TextFigures.of(predictions.texts, tokenizer, figures.profile)
    unknown = find_unknown(predictions.texts, tokenizer).rows if figures.unknown_rows else []
    has_unknown = np.isin(np.arange(len(predictions)), unknown)
    described = Unknown(np.arange(0), figures.unknown_signs).describe()
    hashes = np.fromiter(map(hash, rows.iter_texts()), dtype=np.int64, count=len(rows))
    number = int(everything.figures.get("leaked_rows", 0))
    return figures, [
        check_rates(predictions.labels, count_rows(train_labels), count_rows(everything.truth)),
        check_label_sets(hashes, train_labels, predictions.truth),
        check_texts(figures, validation),
        check_leaks(leaked, number, len(everything), right),
        check_cut(training.lengths, training.full_lengths, training.max_length),
        check_unknown(figures, described, has_unknown, right),
    ]


def _training_sample(rows: Examples, labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Texts and labels of the training rows that the linear model sees, of all labels `[N, L]`."""
    first = [rows.rows[int(i)]["text"] for i in some_rows(len(rows), 1000)]
    chosen = training_rows(len(rows), labels.shape[1], float(np.mean([len(text) for text in first])))
    return rows.rows.select(chosen)["text"][:], labels[chosen]


def _jaccard(truth: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Jaccard index of each row on its known cells, 1 where nothing is true and nothing given: `[N]`."""
    true, given = on_known_cells(truth, decided)
    both, either = (true & given).sum(axis=1), (true | given).sum(axis=1)
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def check_course(training: Training, results: Mapping[str, Any], score: str) -> Check:
    """The course of a training by the score that the run was chosen by, and by mAP, which shows on fewer rows that it
    was still getting better, as no thresholds play a part in it.

    Args:
        training: what is known of it.
        results: of the run, with the ends of intervals.
        score: name of the score in the log, `eval_f1_macro_tuned`.
    """
    check, by_map = (
        check_progress(training.log_history, name, _half_width(results, name), training.best_is_kept)
        for name in (score, "eval_map")
    )
    still_learning = [finding.kind for finding in by_map.findings] == ["still_learning"]
    return by_map if still_learning and not check.findings else check


def _half_width(results: Mapping[str, Any], name: str) -> float:
    return (results[f"{name}_high"] - results[f"{name}_low"]) / 2
