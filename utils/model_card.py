"""The README.md of a run folder: scores, and how to load the model."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.evaluation import label_table, summary_table


def render_card(
    output_dir, model_args, run_args, training_args, threshold_args, task, evaluation, metrics, **particular
):
    """Fill `model_card.md.jinja`; a value it names and is not given is an error.

    Args:
        metrics: the content of eval_results.json.
        particular: what only one approach has, and the name of its part of the template, `use_template`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md.jinja").render(
        name=output_dir.rstrip("/").split("/")[-1],
        folder=output_dir,
        model_args=model_args,
        adapter=model_args.use_peft,
        pictures=run_args.report,
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
