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

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.core.arguments import (
    DataArguments,
    GenerationArguments,
    GeneratorModelArguments,
    RunArguments,
    ThresholdArguments,
)
from utils.core.errors import UserError
from utils.core.parser import TrainerArguments, script

if TYPE_CHECKING:  # loading it takes torch
    from utils.training.generator import GeneratorTrainingArguments

ARGUMENTS = [GeneratorModelArguments, DataArguments, GenerationArguments, ThresholdArguments, RunArguments]


@script(__doc__, ARGUMENTS, trainer="utils.training.generator:GeneratorTrainingArguments")
def main(
    model_args: GeneratorModelArguments,
    data_args: DataArguments,
    generation_args: GenerationArguments,
    threshold_args: ThresholdArguments,
    run_args: RunArguments,
    trainer_args: TrainerArguments,
) -> None:
    """Train, evaluate and save one run; or, with --eval_only, score a model as it is.

    Args:
        model_args: which model, in full or with LoRA.
        data_args: where the rows are and how they are read.
        generation_args: how labels are asked for, written and scored.
        threshold_args: how probabilities become yes and no.
        run_args: what happens in the output folder.
        trainer_args: Trainer's arguments, not loaded yet.
    """
    from utils.core.log import log
    from utils.training.start import check_answers_are_labels, check_start

    # Refuse what cannot work and read the data, before torch is loaded
    eval_only = generation_args.eval_only
    if data_args.long_texts == "windows":
        raise UserError(
            "--long_texts windows is for a classification head, whose logits can be pooled over windows: an answer is "
            "one list of labels for the whole text; pass middle or cut"
        )
    check_start(model_args, data_args, run_args, trainer_args, eval_only)
    check_answers_are_labels(data_args, eval_only)

    import datasets

    from utils.data.training_data import read_evaluation_data, read_training_data

    if trainer_args.disable_tqdm:
        datasets.disable_progress_bars()
    if eval_only and not (data_args.train_file or data_args.dataset_name):
        train, (validation, task) = None, read_evaluation_data(data_args)
    else:
        train, validation, task = read_training_data(data_args, trainer_args.seed)
    threshold_args.suit(task.single_label)

    # Imported here because they load torch, and what is refused above should not.
    import transformers

    from utils.core.processes import local_main_first
    from utils.models.approaches import place
    from utils.models.generator.generator import LabelGenerator
    from utils.scoring.evaluation import Evaluator, metric_names
    from utils.training.arguments import check_best_metric
    from utils.training.experiment import Experiment
    from utils.training.generator import AnswerEvaluator, LabelTrainer, check_whole_answers
    from utils.training.launch import check_free_decoding
    from utils.training.preflight import Preflight

    # Refuse what cannot work with this machine, launch and Trainer
    training_args: GeneratorTrainingArguments = trainer_args.load()
    experiment = Experiment("run_sft_labels.py", model_args, threshold_args, run_args, training_args, eval_only)
    if train is not None and not eval_only:
        check_whole_answers(train)
    if generation_args.decoding == "free":
        check_free_decoding(model_args, training_args)
    names = metric_names(task.labels, experiment.rule, decoded=True)
    check_best_metric(training_args, names | {"loss", "mean_token_accuracy"})

    # Load the model, write the prompt
    transformers.set_seed(training_args.seed)  # new weights are the same in all processes
    generator = LabelGenerator.new(model_args, generation_args, task, data_args.max_length)
    generator.compute_dtype = training_args.torch_compute_dtype
    task.max_length = generator.max_length
    evaluator = Evaluator(validation, task.labels, experiment.rule)
    evaluate = AnswerEvaluator(generator, validation, evaluator, training_args.per_device_eval_batch_size)
    first = validation if train is None else train
    log(f"a prompt, and in brackets its answer:\n{generator.show_prompt(first.texts[0], first.labels[0])}\n")
    arguments = (model_args, data_args, generation_args, generator.form.generation, threshold_args)

    # Score the model as it is
    if train is None or eval_only:
        if not run_args.preflight_only:
            place(generator.model)
            experiment.begin(task, None, *arguments)
            if experiment.is_trained:  # and was killed before its last files were written
                return experiment.resume_finishing(generator)
            experiment.finish(generator, evaluate())
        return

    # Tokenize, check and show what will be trained
    with local_main_first():  # the other processes find the tokens in the cache
        train_tokens, validation_tokens = generator.encode(train), generator.encode(validation)
    preflight = Preflight(generator, train_tokens, training_args, train)
    log(preflight.summary())
    if run_args.preflight_only:
        return

    # Train
    eval_coverage = generation_args.eval_coverage
    trainer = LabelTrainer(generator, training_args, train_tokens, validation_tokens, evaluate, eval_coverage)
    experiment.begin(task, trainer, *arguments)
    if experiment.is_trained:
        return experiment.resume_finishing(generator)
    train_metrics = experiment.train(trainer)

    # Evaluate, save, show, push
    generator.model = trainer.model
    experiment.finish(generator, evaluate(), train_metrics, trainer, preflight, (train, validation))


if __name__ == "__main__":
    main()
