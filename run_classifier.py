"""Fine-tune a model with a classification head for multi-label text classification.

    accelerate launch run_classifier.py --model_name_or_path roberta-base \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/roberta
    accelerate launch run_classifier.py --config recipes/minilm_cpu.yaml \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/minilm

    accelerate launch run_classifier.py --config recipes/qwen2.5_7b_qlora_head.yaml \\
        --train_file train.csv --validation_file validation.csv --output_dir outputs/qwen2.5-7b

With --ask_labels each label is asked for by a short question behind the text, all in one pass, so that labels can have
descriptions, and a finished run can be asked for labels that it was never trained on (predict.py --labels).

Columns are found by themselves: an id, a text, and every 0/1 column is a label. The folder of the run then holds the
model, thresholds for each label, validation predictions and scores; make_submission.py takes it from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.core.arguments import (
    DataArguments,
    LossArguments,
    ModelArguments,
    QuestionArguments,
    RunArguments,
    ThresholdArguments,
)
from utils.core.parser import TrainerArguments, script

if TYPE_CHECKING:  # loading it takes torch
    from utils.training.arguments import TaskTrainingArguments

ARGUMENTS = [ModelArguments, DataArguments, QuestionArguments, LossArguments, ThresholdArguments, RunArguments]


@script(__doc__, ARGUMENTS, trainer="utils.training.arguments:TaskTrainingArguments")
def main(
    model_args: ModelArguments,
    data_args: DataArguments,
    question_args: QuestionArguments,
    loss_args: LossArguments,
    threshold_args: ThresholdArguments,
    run_args: RunArguments,
    trainer_args: TrainerArguments,
) -> None:
    """Train, evaluate and save one run.

    Args:
        model_args: which model, in full or with LoRA.
        data_args: where the rows are and how they are read.
        question_args: whether the model is asked for its labels one by one.
        loss_args: what the training minimises.
        threshold_args: how probabilities become yes and no.
        run_args: what happens in the output folder.
        trainer_args: Trainer's arguments, not loaded yet.
    """
    from utils.core.log import log
    from utils.training.start import check_start

    # Refuse what cannot work and read the data, before torch is loaded
    check_start(model_args, data_args, run_args, trainer_args, question_args=question_args)

    import datasets

    from utils.data.examples import log_samples
    from utils.data.training_data import read_training_data

    if trainer_args.disable_tqdm:
        datasets.disable_progress_bars()
    train, validation, task = read_training_data(data_args, trainer_args.seed)
    loss_args.suit(task.single_label, task.soft_labels)
    threshold_args.suit(task.single_label)
    log(f"{len(train)} training rows, {len(validation)} validation rows; two of them:")
    log_samples(train, task.labels, trainer_args.seed)

    # Imported here because they load torch, and what is refused above should not.
    import transformers

    from utils.core.processes import local_main_first
    from utils.models.classifier import Classifier
    from utils.scoring.evaluation import Evaluator, metric_names
    from utils.training.arguments import check_best_metric
    from utils.training.classifier import MultiLabelTrainer, make_loss
    from utils.training.experiment import Experiment
    from utils.training.preflight import Preflight

    # Refuse what cannot work with this machine, launch and Trainer
    training_args: TaskTrainingArguments = trainer_args.load()
    experiment = Experiment("run_classifier.py", model_args, threshold_args, run_args, training_args)
    check_best_metric(training_args, metric_names(task.labels, experiment.rule) | {"loss"})
    loss = make_loss(loss_args, train.labels, train.weights, training_args.label_smoothing_factor)

    # Load the model, tokenize the texts
    transformers.set_seed(training_args.seed)  # new weights are the same in all processes
    classifier = Classifier.new(model_args, task, data_args.max_length, question_args)
    task.max_length = classifier.max_length
    with local_main_first():  # the other processes find the tokens in the cache
        train_tokens, validation_tokens = classifier.encode(train), classifier.encode(validation)

    # Check and show what will be trained
    preflight = Preflight(classifier, train_tokens, training_args, train, loss.pos_weight.numpy())
    log(preflight.summary())
    if run_args.preflight_only:
        return

    # Train
    evaluate = Evaluator(validation, task.labels, experiment.rule)
    trainer = MultiLabelTrainer(classifier, training_args, train_tokens, validation_tokens, loss, evaluate)
    experiment.begin(task, trainer, model_args, data_args, question_args, loss_args, threshold_args)
    if experiment.is_trained:  # and was killed before its last files were written
        return experiment.resume_finishing(classifier)
    train_metrics = experiment.train(trainer)

    # Evaluate, save, show, push
    evaluation = evaluate(trainer.predict_in_order(validation_tokens))
    experiment.finish(classifier, evaluation, train_metrics, trainer, preflight, (train, validation))


if __name__ == "__main__":
    main()
