"""Fine-tune a model with a classification head for multi-label text classification.

    accelerate launch run_classifier.py --model_name_or_path roberta-base \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/roberta
    accelerate launch run_classifier.py --config recipes/minilm_cpu.yaml \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/minilm

    accelerate launch run_classifier.py --config recipes/qwen2.5_7b_qlora_head.yaml \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/qwen2.5-7b

Columns are found by themselves: an id, a text, and every 0/1 column is a label. The folder of the run then holds the
model, thresholds for each label, validation predictions and scores; make_submission.py takes it from there.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from utils.core.arguments import (
    TRAINER_HELP,
    DataArguments,
    LossArguments,
    ModelArguments,
    RunArguments,
    ThresholdArguments,
)
from utils.core.errors import UserError, exit_on_user_error
from utils.core.parser import ArgumentParser, print_help

ARGUMENTS = [ModelArguments, DataArguments, LossArguments, ThresholdArguments, RunArguments]


@exit_on_user_error
def main(argv=None):
    """Train, evaluate and save one run."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        return print_help(__doc__, ARGUMENTS, TRAINER_HELP)

    # Heavy imports come after --help, which should answer at once.
    import datasets
    import numpy as np
    import torch
    import transformers
    from scipy.special import expit

    from utils.core.files import write_text
    from utils.core.processes import local_main_first, this_process
    from utils.data.examples import label_array, read_training_data
    from utils.data.splits import near_duplicate_groups
    from utils.hub.push import check_push, push_run, take_push
    from utils.models.adapters import add_lora, merge_adapter, name_base_on_hub
    from utils.models.encoding import collator, encode, length_limit, longest_first
    from utils.models.head import HEAD_PARTS, load_classifier
    from utils.models.loading import EMBEDDED_MINILM, load_tokenizer
    from utils.report.card import render_card
    from utils.report.page import write_run_report
    from utils.report.tracking import check_trackers, log_finished_run
    from utils.runs.folder import (
        ARGUMENTS_FILE,
        MERGED_FOLDER,
        begin_run,
        check_same_run,
        find_checkpoint,
        publish,
        save_predictions,
        save_results,
        save_thresholds,
        staging_folder,
    )
    from utils.runs.inference import predict_probabilities
    from utils.scoring.evaluation import evaluate_probabilities, label_table, summary_table
    from utils.training.arguments import (
        TaskTrainingArguments,
        arguments_of_result,
        check_best_metric,
        check_run,
        choose_by_mode,
    )
    from utils.training.batches import MultiLabelTrainer
    from utils.training.launch import check_checkpoint, check_launch, check_shared_folder
    from utils.training.log import use_readable_log
    from utils.training.loop import train_to_the_end
    from utils.training.losses import MultiLabelLoss, positive_weights
    from utils.training.preflight import (
        Texts,
        check_classifier,
        check_weights,
        describe_head,
        label_count_table,
        preflight_figures,
        preflight_table,
    )

    # Arguments
    if "--help_all" in argv:
        return print_help(__doc__, [*ARGUMENTS, TaskTrainingArguments])
    model_args, data_args, loss_args, threshold_args, run_args, training_args = ArgumentParser(
        [*ARGUMENTS, TaskTrainingArguments]
    ).parse(argv)
    if threshold_args.threshold_strategy == "fixed":  # no score has chosen thresholds then
        training_args.metric_for_best_model = training_args.metric_for_best_model.removesuffix("_tuned")
    choose_by_mode(training_args, model_args)
    check_launch(model_args, training_args, run_args.merge_adapter)
    push = take_push(training_args, model_args, self_contained=not model_args.use_peft)
    output_dir = training_args.output_dir
    state = this_process()

    def log(message):
        if state.is_main_process:
            print(message, file=sys.stderr, flush=True)

    if training_args.disable_tqdm:
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    check_run(training_args, model_args, run_args)
    if push and state.is_main_process and not run_args.preflight_only:
        check_push(push, log)
    check_trackers(training_args, state.is_main_process)
    checkpoint = None if run_args.preflight_only else find_checkpoint(output_dir, run_args.overwrite)
    check_checkpoint(checkpoint, training_args)

    # Data
    train, validation, task = read_training_data(data_args, training_args.seed, log)
    log(f"{len(train)} training rows, {len(validation)} validation rows; two of them:")
    for row in np.random.default_rng(training_args.seed).choice(len(train), min(2, len(train)), replace=False):
        names = [name for name, value in zip(task.labels, train[int(row)]["labels"]) if value]
        log(f"  {train[int(row)]['text']!r}: {', '.join(names) or '(none)'}")
    truth = label_array(validation)
    validation_groups = near_duplicate_groups(validation["text"][:])

    # Tokenizer and model
    transformers.set_seed(training_args.seed)  # the new weights are the same in all processes
    tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
    model = load_classifier(model_args, task.labels, tokenizer)
    if model_args.use_peft:
        model = add_lora(model, model_args)
    max_length = length_limit(data_args.max_length, tokenizer, model.config)
    task.max_length = max_length
    with local_main_first():  # the others find the tokens in the cache
        train_encoded = encode(train, tokenizer, max_length)
        validation_encoded = encode(validation, tokenizer, max_length)

    # Loss
    weights = positive_weights(label_array(train), loss_args.pos_weight, loss_args.max_pos_weight)
    loss = MultiLabelLoss(
        loss_args.loss,
        torch.tensor(weights, dtype=torch.float32),
        loss_args.focal_gamma,
        loss_args.asl_gamma_positive,
        loss_args.asl_gamma_negative,
        loss_args.asl_clip,
    )
    loss_description = f"loss {loss_args.loss}, pos_weight {loss_args.pos_weight}"

    # Preflight
    full_lengths = np.array(train_encoded["full_length"][:])
    texts = Texts(int(full_lengths.max()), int((full_lengths > max_length).sum()), len(train), max_length)
    check_classifier(model)
    check_weights(model, model_args, tokenizer, texts)
    head = ["head", describe_head(model, model_args.pooling)]
    log(preflight_table(model, model_args, training_args, tokenizer, texts, [head]))
    log(label_count_table(task, weights))
    preflight = preflight_figures(model, training_args, texts)
    if run_args.preflight_only:
        return

    # Trainer
    def evaluate(probabilities):
        return evaluate_probabilities(
            probabilities,
            truth,
            validation_groups,
            task.labels,
            threshold_args.threshold_strategy,
            threshold_args.threshold_shrinkage,
        )

    # Evaluated with the longest first, scored in the order of the file.
    order = longest_first(validation_encoded)

    def compute_metrics(prediction):
        logits = np.empty(prediction.predictions.shape)
        logits[order] = prediction.predictions
        if np.isnan(logits).any():
            raise UserError("training diverged (the model predicts NaN): lower --learning_rate")
        return evaluate(expit(logits)).metrics

    check_best_metric(training_args, {"loss", *evaluate(np.full(truth.shape, 0.5)).metrics})
    try:
        trainer = MultiLabelTrainer(
            model=model,
            args=training_args,
            train_dataset=train_encoded,
            eval_dataset=validation_encoded.select(order),
            processing_class=tokenizer,
            data_collator=collator(tokenizer, not training_args.use_cpu),
            compute_loss_func=loss,
            compute_metrics=compute_metrics,
        )
    except (ValueError, RuntimeError, ImportError) as error:  # a tracker that is not installed, say
        raise UserError(str(error)) from error
    use_readable_log(trainer)

    # Train
    arguments = {
        "script": "run_classifier.py",
        **asdict(model_args),
        **asdict(data_args),
        **asdict(loss_args),
        **asdict(threshold_args),
        "data_sha256": task.data_sha256,
        **arguments_of_result(training_args, run_args),
    }
    if checkpoint:
        check_same_run(output_dir, arguments, task)
    state.wait_for_everyone()
    if state.is_main_process:
        begin_run(output_dir, arguments, task, resuming=bool(checkpoint))
    state.wait_for_everyone()
    check_shared_folder(Path(output_dir) / ARGUMENTS_FILE)
    train_metrics = train_to_the_end(trainer, checkpoint, run_args.early_stopping_patience, log)

    # Evaluate
    probabilities = predict_probabilities(trainer, validation_encoded)
    evaluation = evaluate(probabilities)
    eval_metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
    train_metrics["train_samples"] = len(train)
    eval_metrics |= {
        "eval_samples": len(validation),
        "best_metric_name": training_args.metric_for_best_model,
        "best_checkpoint_step": trainer.state.best_global_step,
        "epoch": trainer.state.epoch,
    }

    # Save
    staging = staging_folder(output_dir)
    trainer.save_model(staging)
    if state.is_main_process:
        save_thresholds(staging, task.labels, evaluation.thresholds, threshold_args)
        save_predictions(staging, validation, task.labels, truth, probabilities)
        trainer.state.save_to_json(staging / "trainer_state.json")
        card = render_card(
            output_dir, model_args, run_args, training_args, threshold_args, task, evaluation, eval_metrics,
            trainer.state.log_history,
            trained=True,
            made="fine-tuned with LoRA" if model_args.use_peft else "fine-tuned",
            pipeline_tag="text-classification",
            use_template="model_card_use_classifier.md.jinja",
            loss_description=loss_description,
            head_parts=HEAD_PARTS,
        )  # fmt: skip
        write_text(staging / "README.md", card)
        save_results(staging, train_metrics, eval_metrics)
        if model_args.use_peft and model_args.model_name_or_path == EMBEDDED_MINILM:
            name_base_on_hub(staging)
        publish(output_dir, run_args.keep_checkpoints)
        if run_args.report:
            write_run_report(output_dir)
        log_finished_run(training_args, output_dir, preflight, trainer)
        if run_args.merge_adapter:  # last, as it needs the most memory: the run is complete without it
            base = load_classifier(model_args, task.labels, tokenizer)
            merge_adapter(base, model_args.dtype, tokenizer, output_dir, staging)
            staging.rename(Path(output_dir) / MERGED_FOLDER)
        print(f"\n{summary_table(evaluation.metrics)}\n\n{label_table(evaluation.metrics, task.labels)}\n")
        print(f"run folder: {output_dir}")
    trainer.end()
    if push and state.is_main_process:  # last of all: the run is complete if the Hub refuses it
        push_run(output_dir, push, log)


if __name__ == "__main__":
    main()
