"""The README.md of a run folder: scores, and how to load the model."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.report.pictures import has_training_curves
from utils.scoring.evaluation import label_table, summary_table

# Files of `utils.report` and what they show.
PICTURES = {
    "label_f1": "F1 of each label with 95 % intervals",
    "precision_recall": "Precision and recall of each label, with the chosen threshold",
    "co_occurrence": "How often labels stand together, true and predicted",
    "calibration": "Calibration of the probabilities",
    "training_curves": "Loss and macro-F1 during training",
}


def render_card(
    output_dir,
    model_args,
    run_args,
    training_args,
    threshold_args,
    task,
    evaluation,
    metrics,
    log_history,
    **particular,
):
    """Fill `model_card.md.jinja`; a value it names and is not given is an error.

    Args:
        metrics: the content of eval_results.json.
        log_history: of the training, empty if there was none.
        particular: what only one approach has, and the name of its part of the template, `use_template`.
    """
    drawn = PICTURES if run_args.report else {}
    pictures = {file: t for file, t in drawn.items() if file != "training_curves" or has_training_curves(log_history)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja").render(
        name=output_dir.rstrip("/").split("/")[-1],
        folder=output_dir,
        model_args=model_args,
        adapter=model_args.use_peft,
        pictures=pictures,
        merged=run_args.merge_adapter,
        task=task,
        max_length=task.max_length,
        metrics=metrics,
        tuned=threshold_args.threshold_strategy != "fixed",
        threshold_strategy=threshold_args.threshold_strategy,
        summary_table=summary_table(evaluation.metrics, markdown=True),
        label_table=label_table(evaluation.metrics, task.labels, markdown=True),
        training_args=training_args.to_sanitized_dict(),
        label_counts=list(zip(task.labels, task.train_positives)),
        **particular,
    )
