"""What can be refused without torch, and so at once: flags, files and folders."""

from __future__ import annotations

from pathlib import Path

from utils.core.arguments import DataArguments, ModelArguments, QuestionArguments, RunArguments
from utils.core.errors import UserError
from utils.core.files import check_file, check_writable, is_there
from utils.core.parser import TrainerArguments
from utils.models.loading import check_model_folder
from utils.runs.folder import find_checkpoint


def check_start(
    model_args: ModelArguments,
    data_args: DataArguments,
    run_args: RunArguments,
    trainer_args: TrainerArguments,
    eval_only: bool = False,
    question_args: QuestionArguments | None = None,
) -> None:
    """Refuse what does not go together, files and models that are not there, and a folder that holds other things.

    Args:
        model_args: which model, in full or with LoRA.
        data_args: where the rows are.
        run_args: what happens in the output folder.
        trainer_args: which folder that is.
        eval_only: whether the model is scored as it is.
        question_args: whether the model is asked for its labels one by one.

    Raises:
        UserError: with the flags to change.
    """
    if eval_only and (model_args.use_peft or run_args.merge_adapter):
        raise UserError("--eval_only scores a model as it is: leave --use_peft and --merge_adapter out")
    if eval_only and run_args.time_limit:
        raise UserError("--time_limit ends trainings, and --eval_only has none: leave one of them out")
    if model_args.trust_remote_code and not (model_args.use_peft or eval_only):
        raise UserError(
            "--trust_remote_code is for adapters: a model trained in full would be saved with the code, and that of a "
            "run is never run; add --use_peft, or take a model that transformers knows"
        )
    if (model_args.load_in_4bit or model_args.load_in_8bit) and not (model_args.use_peft or eval_only):
        raise UserError("weights in 4 or 8 bit cannot be trained themselves: add --use_peft")
    if model_args.dtype == "float16" and not (model_args.use_peft or eval_only):
        raise UserError(
            "--dtype float16: weights that are trained themselves must be fp32, as the gradient scaler takes no fp16 "
            "gradients: pass --dtype float32 (with --fp16 the products are computed in fp16 all the same)"
        )
    output_dir = trainer_args.output_dir
    if Path(output_dir).resolve() == Path(model_args.model_name_or_path).resolve():
        raise UserError(f"--output_dir {output_dir} is the folder of the model to start from: choose another")
    if run_args.merge_adapter and (not model_args.use_peft or model_args.pooling == "mean"):
        raise UserError(
            "--merge_adapter is for runs with --use_peft that pool one token: plain transformers, which a merged model "
            "is for, do not compute --pooling mean"
        )
    if question_args is not None and question_args.ask_labels:
        if model_args.pooling is not None:
            raise UserError("--ask_labels reads the last token of each question: leave --pooling out")
        if run_args.merge_adapter:
            raise UserError(
                "--merge_adapter is for plain transformers, which do not ask labels one by one: leave it out"
            )
    for file in (*(data_args.train_file or ()), data_args.validation_file):
        if file:
            check_file(file)
    if data_args.label_names and not is_there(data_args.label_names):
        raise UserError(f"--label_names {data_args.label_names}: no such file")
    check_model_folder(model_args.model_name_or_path)
    if not run_args.preflight_only:
        find_checkpoint(output_dir, run_args.overwrite)
        check_writable("output_dir", output_dir)


def check_answers_are_labels(data_args: DataArguments, eval_only: bool) -> None:
    """Refuse to teach a label generator shares.

    Raises:
        UserError: for `--soft_labels`, unless nothing is trained.
    """
    if data_args.soft_labels and not eval_only:
        raise UserError(
            "--soft_labels: a label generator is taught to write labels, and a share of one cannot be written: train a "
            "head with run_classifier.py, or write 0 and 1 into the cells"
        )
