"""Fine-tune a language model to answer a text with its labels, and score every label.

    accelerate launch run_sft_labels.py --model_name_or_path Qwen/Qwen3-0.6B --use_peft --load_in_4bit \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/qwen3

    accelerate launch run_sft_labels.py --config recipes/qwen3_0.6b_qlora_labels.yaml \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/qwen3

    accelerate launch run_sft_labels.py --model_name_or_path Qwen/Qwen3-0.6B --eval_only \\
        --validation_file validation.csv --output_dir outputs/zero-shot

The model is taught the labels of a row as text, "joy, love", in a fixed order. It answers with valid lists only, and
P(label in the answer) is the sum over the lists that hold the label: so thresholds, averaging and make_submission.py
work as for a classifier. Data, columns and the folder of the run are as in run_classifier.py.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from utils.core.arguments import (
    TRAINER_HELP,
    DataArguments,
    GenerationArguments,
    GeneratorModelArguments,
    RunArguments,
    ThresholdArguments,
)
from utils.core.errors import UserError, exit_on_user_error
from utils.core.parser import ArgumentParser, print_help

ARGUMENTS = [GeneratorModelArguments, DataArguments, GenerationArguments, ThresholdArguments, RunArguments]


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

    from utils.core.files import write_text
    from utils.core.processes import local_main_first, this_process
    from utils.data.examples import label_array, read_evaluation_data, read_training_data
    from utils.data.splits import near_duplicate_groups
    from utils.hub.push import check_push, push_run, take_push
    from utils.models.adapters import add_lora, merge_adapter
    from utils.models.encoding import length_limit, longest_first
    from utils.models.generator.generator import build_generator, choose_generation, predict_labels
    from utils.models.generator.loading import load_generator
    from utils.models.generator.prompts import AnswerCollator, encode_conversations, text_ids
    from utils.models.generator.search import check_scorable
    from utils.models.loading import load_tokenizer
    from utils.models.parameters import costs
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
    from utils.scoring.evaluation import evaluate_probabilities, label_table, summary_table
    from utils.training.arguments import arguments_of_result, check_best_metric, check_run, choose_by_mode
    from utils.training.launch import check_checkpoint, check_launch, check_shared_folder
    from utils.training.log import use_readable_log
    from utils.training.loop import train_to_the_end
    from utils.training.preflight import Texts, check_weights, label_count_table, preflight_figures, preflight_table
    from utils.training.sft import GeneratorTrainingArguments, LabelTrainer

    # Arguments
    if "--help_all" in argv:
        return print_help(__doc__, [*ARGUMENTS, GeneratorTrainingArguments])
    model_args, data_args, generation_args, threshold_args, run_args, training_args = ArgumentParser(
        [*ARGUMENTS, GeneratorTrainingArguments]
    ).parse(argv)
    if threshold_args.threshold_strategy == "fixed":  # no score has chosen thresholds then
        training_args.metric_for_best_model = training_args.metric_for_best_model.removesuffix("_tuned")
    choose_by_mode(training_args, model_args, generation_args.eval_only)
    check_launch(model_args, training_args, run_args.merge_adapter)
    push = take_push(training_args, model_args, self_contained=not (model_args.use_peft or generation_args.eval_only))
    dtype = getattr(torch, training_args.compute_dtype)
    output_dir = training_args.output_dir
    eval_only = generation_args.eval_only
    state = this_process()

    def log(message):
        if state.is_main_process:
            print(message, file=sys.stderr, flush=True)

    if training_args.disable_tqdm:
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    if eval_only and (model_args.use_peft or run_args.merge_adapter):
        raise UserError("--eval_only scores a model as it is: leave --use_peft and --merge_adapter out")
    check_run(training_args, model_args, run_args, eval_only)
    if push and state.is_main_process and not run_args.preflight_only:
        check_push(push, log)
    check_trackers(training_args, state.is_main_process)
    checkpoint = None if run_args.preflight_only else find_checkpoint(output_dir, run_args.overwrite)
    check_checkpoint(checkpoint, training_args)

    # Data
    if eval_only and not (data_args.train_file or data_args.dataset_name):
        train, (validation, task) = None, read_evaluation_data(data_args, log)
    else:
        train, validation, task = read_training_data(data_args, training_args.seed, log)
    truth = label_array(validation)
    validation_groups = near_duplicate_groups(validation["text"][:])

    # Tokenizer, model, prompt
    transformers.set_seed(training_args.seed)  # the new weights are the same in all processes
    tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
    model = load_generator(model_args, tokenizer, complete=eval_only)
    max_length = length_limit(data_args.max_length, tokenizer, model.config)
    check_scorable(model, generation_args.decoding, max_length)
    if model_args.use_peft:
        model = add_lora(model, model_args)
    task.max_length = max_length
    generation = choose_generation(generation_args, task)
    generator = build_generator(generation, task.labels, tokenizer, max_length)
    model.generation_config.eos_token_id = generator.prompt.end
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    validation_texts = text_ids(validation["text"][:], tokenizer)
    shortened = sum(len(ids) > generator.budget for ids in validation_texts)
    if shortened:
        log(f"{shortened} of {len(validation)} validation texts are shortened to {generator.budget} tokens")
    prompt = generator.prompt
    first = validation if train is None else train
    answer = generator.answers.write(np.array(first[0]["labels"])[generator.label_text.columns])
    log(f"a prompt, and in brackets its answer:\n{prompt.before}{first[0]['text']}{prompt.after}"
        f"[{tokenizer.decode(answer)}]\n")  # fmt: skip

    # Evaluation
    def evaluate(model, coverage):
        """Answers and probabilities of the validation rows, and their `Evaluation`."""
        was_training = model.training
        model.eval()
        predictions = predict_labels(
            model, generator, validation_texts, training_args.per_device_eval_batch_size, dtype, coverage
        )
        model.train(was_training)
        if np.isnan(predictions.probabilities).any():
            why = "its weights are broken" if eval_only else "training diverged, lower --learning_rate"
            raise UserError(f"the model predicts NaN: {why}")
        evaluation = evaluate_probabilities(
            predictions.probabilities,
            truth,
            validation_groups,
            task.labels,
            threshold_args.threshold_strategy,
            threshold_args.threshold_shrinkage,
            predictions.decoded,
        )
        evaluation.metrics["coverage"] = float(predictions.covered.mean())
        evaluation.metrics["texts_cut"] = shortened
        if generation.decoding == "free":
            evaluation.metrics["unknown_words"] = sum(predictions.unknown.values())
            often = sorted(predictions.unknown.items(), key=lambda item: -item[1])[:10]
            log(
                f"words in free answers that are no label: {', '.join(f'{w[:40]!r} ({n})' for w, n in often) or 'none'}"
            )
        return predictions, evaluation

    if eval_only:
        trainer, preflight = None, {}
        if not getattr(model, "is_quantized", False):  # bitsandbytes has put quantised weights in their place
            model.to(training_args.device)
    else:
        # Tokens and preflight
        with local_main_first():  # the others find the tokens in the cache
            encoding = (tokenizer, prompt, generator.answers, generator.label_text, generator.budget)
            train_encoded = encode_conversations(train, *encoding)
            validation_encoded = encode_conversations(validation, *encoding)
        lengths, cut = np.array(train_encoded["length"][:]), np.array(train_encoded["cut"][:])
        texts = Texts(int((lengths + cut).max()), int((cut > 0).sum()), len(train), max_length)
        check_weights(model, model_args, tokenizer, texts)
        rows = [
            ["prompt tokens", f"{len(prompt.head)} before a text, run once for all rows, and {len(prompt.tail)} after"],
            ["answers", f"up to {generator.answers.longest} tokens, in the order "
                        f"{', '.join(generation.order)}; {generation.no_label!r} for no label"],
        ]  # fmt: skip
        log(preflight_table(model, model_args, training_args, tokenizer, texts, rows))
        log(label_count_table(task))
        preflight = preflight_figures(model, training_args, texts)
    if run_args.preflight_only:
        return

    if not eval_only:
        # Trainer
        check_best_metric(
            training_args,
            {"loss", "mean_token_accuracy", *evaluate_probabilities(
                np.full(truth.shape, 0.5), truth, validation_groups, task.labels,
                threshold_args.threshold_strategy, threshold_args.threshold_shrinkage, truth,
            ).metrics},
        )  # fmt: skip
        try:
            trainer = LabelTrainer(
                model=model,
                args=training_args,
                train_dataset=train_encoded,
                eval_dataset=validation_encoded.select(longest_first(validation_encoded)),
                processing_class=tokenizer,
                data_collator=AnswerCollator(model.config, None if training_args.use_cpu else 8),
                score_labels=lambda model: evaluate(model, generation_args.eval_coverage)[1].metrics,
            )
        except (ValueError, RuntimeError, ImportError) as error:  # a tracker that is not installed, say
            raise UserError(str(error)) from error
        use_readable_log(trainer)

    # Train
    arguments = {
        "script": "run_sft_labels.py",
        **asdict(model_args),
        **asdict(data_args),
        **asdict(generation_args),
        **asdict(generation),
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
    if not eval_only:
        train_metrics = train_to_the_end(trainer, checkpoint, run_args.early_stopping_patience, log)
        train_metrics["train_samples"] = len(train)

    # Evaluate
    predictions, evaluation = evaluate(model if eval_only else trainer.model, generation.coverage)
    eval_metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
    eval_metrics["eval_samples"] = len(validation)
    if eval_only:
        train_metrics = costs(model) | {"trainable_parameters": 0}
    if not eval_only:
        eval_metrics |= {
            "best_metric_name": training_args.metric_for_best_model,
            "best_checkpoint_step": trainer.state.best_global_step,
            "epoch": trainer.state.epoch,
        }

    # Save
    staging = staging_folder(output_dir)
    if not eval_only:
        trainer.save_model(staging)
    if state.is_main_process:
        tokenizer.save_pretrained(staging)
        generation.save(staging)
        save_thresholds(staging, task.labels, evaluation.thresholds, threshold_args)
        save_predictions(staging, validation, task.labels, truth, predictions.probabilities, predictions.decoded)
        if not eval_only:
            trainer.state.save_to_json(staging / "trainer_state.json")
        made = "as it is" if eval_only else "taught with LoRA" if model_args.use_peft else "taught"
        card = render_card(
            output_dir, model_args, run_args, training_args, threshold_args, task, evaluation, eval_metrics,
            [] if eval_only else trainer.state.log_history,
            trained=not eval_only,
            made=f"{made} to write labels",
            pipeline_tag="text-generation",
            use_template="model_card_use_generator.md.jinja",
            loss_description="cross-entropy of the answers' tokens",
            prompt=prompt,
            longest_answer=generator.answers.longest,
        )  # fmt: skip
        write_text(staging / "README.md", card)
        save_results(staging, train_metrics, eval_metrics)
        publish(output_dir, run_args.keep_checkpoints)
        if run_args.report:
            write_run_report(output_dir)
        log_finished_run(training_args, output_dir, preflight, trainer)
        if run_args.merge_adapter:  # last, as it needs the most memory: the run is complete without it
            merge_adapter(load_generator(model_args, tokenizer), model_args.dtype, tokenizer, output_dir, staging)
            staging.rename(Path(output_dir) / MERGED_FOLDER)
        print(f"\n{summary_table(evaluation.metrics)}\n\n{label_table(evaluation.metrics, task.labels)}\n")
        print(f"run folder: {output_dir}")
    if not eval_only:
        trainer.end()
    if push and state.is_main_process:  # last of all: the run is complete if the Hub refuses it
        push_run(output_dir, push, log)


if __name__ == "__main__":
    main()
