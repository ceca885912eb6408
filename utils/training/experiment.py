"""What the training scripts do around the training."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import transformers

from utils.core.arguments import ModelArguments, RunArguments, ThresholdArguments
from utils.core.errors import UserError
from utils.core.files import remove_if_empty, remove_temporary_files, write_text
from utils.core.log import log, say
from utils.core.noise import end_noise, keep_noise_in
from utils.core.processes import this_process
from utils.core.shown import printable
from utils.data.task import Task
from utils.doctor.baselines import baseline_text
from utils.doctor.examine import Training, examine
from utils.doctor.finding import Diagnosis
from utils.hub.push import check_push, push_run, take_push
from utils.models.approaches import Approach
from utils.models.parameters import costs
from utils.report.card import expected_pictures, render_card
from utils.report.page import write_run_report
from utils.report.tracking import check_trackers, log_finished_run
from utils.runs.checkpoints import STATE_FILE
from utils.runs.folder import (
    ARGUMENTS_FILE,
    CARD_FILE,
    LOG_FILE,
    MERGED_FOLDER,
    abandon_run,
    begin_run,
    check_same_run,
    drop_leftovers,
    find_checkpoint,
    is_trained,
    publish,
    save_results,
    staging_folder,
)
from utils.runs.lock import RunLock
from utils.runs.manifest import write_manifest
from utils.scoring.evaluation import Evaluation, label_table, summary_table
from utils.scoring.notes import choice_figures, interval_figures, score_notes
from utils.scoring.thresholds import ThresholdRule
from utils.training.arguments import (
    TaskTrainingArguments,
    arguments_of_result,
    check_early_stopping,
    check_optimizer,
    fill_in,
)
from utils.training.launch import check_checkpoint, check_launch, check_shared_folder
from utils.training.log import training_curves
from utils.training.loop import release, train_to_the_end
from utils.training.preflight import Preflight
from utils.training.space import check_space

if TYPE_CHECKING:
    from utils.data.examples import Examples
    from utils.training.batches import LengthGroupedBatches


class Experiment:
    """A run from its first check to its last file. Making one refuses what cannot work, before a model is loaded.

    Args:
        script: file name of the script.
        model_args: which model, in full or with LoRA.
        threshold_args: how probabilities become yes and no.
        run_args: what happens in the output folder.
        training_args: Trainer's arguments.
        eval_only: whether the model is scored as it is.

    Raises:
        UserError: for flags that do not go together, a launch that cannot work, trackers and a Hub that refuse, and an
            output folder that holds other things.
    """

    def __init__(
        self,
        script: str,
        model_args: ModelArguments,
        threshold_args: ThresholdArguments,
        run_args: RunArguments,
        training_args: TaskTrainingArguments,
        eval_only: bool = False,
    ):
        self.script, self.run_args, self.training_args = script, run_args, training_args
        fill_in(model_args, threshold_args, training_args, eval_only)
        self.rule = ThresholdRule.asked_for(threshold_args)
        self.output_dir = training_args.output_dir
        check_launch(model_args, training_args, run_args.merge_adapter)
        self.push = take_push(training_args, model_args, self_contained=not (model_args.use_peft or eval_only))
        self.state = this_process()
        if training_args.disable_tqdm:
            transformers.utils.logging.disable_progress_bar()
            datasets.disable_progress_bars()
        check_early_stopping(run_args, training_args)
        if not eval_only:
            check_optimizer(training_args)
        if self.push and self.state.is_main_process and not run_args.preflight_only:
            check_push(self.push)
        check_trackers(training_args, self.state.is_main_process)
        writes = not run_args.preflight_only
        self.checkpoint = find_checkpoint(self.output_dir, run_args.overwrite) if writes else None
        self.is_trained = writes and is_trained(self.output_dir, run_args.overwrite)
        self.lock = RunLock(self.output_dir)
        if writes and self.state.is_main_process:
            self.lock.check()
        check_checkpoint(self.checkpoint, training_args)

    def begin(self, task: Task, trainer: LengthGroupedBatches | None, *arguments: Any) -> None:
        """Make the output folder that of this run, or make sure that it is, where it `is_trained` already.

        Args:
            task: what is trained.
            trainer: that will train; None where nothing is trained.
            arguments: dataclasses with what the result depends on besides Trainer's arguments, for `run_args.json`.

        Raises:
            UserError: to resume a run with other arguments, for a disk that is too small, where another command has
                gone on in the folder meanwhile, and for a folder that the nodes do not share.
        """
        self.task = task
        self.arguments = {"script": self.script}
        for group in arguments:
            self.arguments |= asdict(group)
        self.arguments["data_sha256"] = task.data_sha256
        self.arguments |= arguments_of_result(self.run_args, self.training_args)
        if self.checkpoint or self.is_trained:
            check_same_run(self.output_dir, self.arguments, task)
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            if trainer is not None and not self.is_trained:
                try:
                    check_space(trainer)
                except UserError:
                    remove_if_empty(self.output_dir)  # Trainer has made it
                    raise
            self.lock.acquire()
            self._check_folder_again()
        if self.state.is_main_process and not self.is_trained:
            begin_run(self.output_dir, self.arguments, task, resuming=bool(self.checkpoint))
        self.state.wait_for_everyone()
        check_shared_folder(Path(self.output_dir) / ARGUMENTS_FILE)
        keep_noise_in(Path(self.output_dir) / LOG_FILE)

    def _check_folder_again(self) -> None:
        """Loading a model takes minutes, in which the same command may have finished elsewhere."""
        try:
            checkpoint = find_checkpoint(self.output_dir, self.run_args.overwrite)
            if checkpoint != self.checkpoint:
                raise UserError(f"--output_dir {self.output_dir}: another command went on there: give this one again")
        except UserError:
            self.lock.release()
            raise

    def train(self, trainer: LengthGroupedBatches) -> dict[str, float]:
        """Train to the end, from the checkpoint of an interrupted run if there is one; returns Trainer's metrics."""
        try:
            metrics = train_to_the_end(trainer, self.checkpoint, self.run_args)
        except UserError:
            end_noise()
            if self.state.is_main_process:
                abandon_run(self.output_dir)  # if there is nothing to go on from
                self.lock.release()
                remove_if_empty(self.output_dir)
            raise
        return metrics | {"train_samples": self.task.train_rows}

    def finish(
        self,
        approach: Approach,
        evaluation: Evaluation,
        train_metrics: dict[str, float] | None = None,
        trainer: LengthGroupedBatches | None = None,
        preflight: Preflight | None = None,
        rows: tuple[Examples, Examples] | None = None,
    ) -> None:
        """Save, look over, show and push the run. Called by all processes.

        Args:
            approach: what was trained.
            evaluation: of the validation rows.
            train_metrics: of `train`; None where nothing was trained.
            trainer: that has trained, likewise.
            preflight: what trackers get to see, likewise.
            rows: for training and for validation, likewise.
        """
        if trainer is not None:
            trainer.save_model(str(staging_folder(self.output_dir)))
        if self.state.is_main_process:
            results, diagnosis = self._publish(approach, evaluation, train_metrics, trainer, rows)
            self._write_report()
            log_finished_run(self.training_args, approach, preflight.figures() if preflight else {}, trainer)
            metrics = {name.removeprefix("eval_"): value for name, value in results.items()}
            tables = (summary_table(metrics, first=self.rule.best_by), label_table(metrics, self.task.labels))
            curves = training_curves(trainer.state.log_history, self.rule.best_by) if trainer is not None else ""
            parts = [curves, tables[0], *score_notes(results), tables[1]]
            parts += [baseline_text(diagnosis.baselines), diagnosis.text()]
            say("", *filter(None, parts), sep="\n\n", end="\n\n")
        if trainer is not None:
            trainer.end()
        self._complete(approach, trainer)

    def resume_finishing(self, approach: Approach) -> None:
        """Make what is missing of a run that `is_trained`: report, merged model and manifest; then push it."""
        log(f"the run in {self.output_dir} was trained and evaluated: what is missing of it is made")
        if self.state.is_main_process:
            drop_leftovers(self.output_dir, self.run_args.keep_checkpoints)
            remove_temporary_files(self.output_dir)
            self._write_report()
        self._complete(approach)

    def _write_report(self) -> None:
        if self.run_args.report:
            write_run_report(self.output_dir)

    def _complete(self, approach: Approach, trainer: LengthGroupedBatches | None = None) -> None:
        if self.run_args.merge_adapter and self.state.is_main_process:  # late, as it needs the most memory
            release(approach, trainer)
            self._merge(approach)
        end_noise()
        if not self.state.is_main_process:
            return
        write_manifest(self.output_dir)  # from here on the run is finished
        self.lock.release()
        say(f"run folder: {printable(self.output_dir)}")
        if self.push:  # last of all: the run is complete if the Hub refuses it
            push_run(self.output_dir, self.push)

    def _publish(
        self,
        approach: Approach,
        evaluation: Evaluation,
        train_metrics: dict[str, float] | None,
        trainer: LengthGroupedBatches | None,
        rows: tuple[Examples, Examples] | None,
    ) -> tuple[dict[str, Any], Diagnosis]:
        """Write all that makes the run complete, beside the model; the parts appear together.

        Returns:
            its results, and what the doctor says of it.
        """
        staging = staging_folder(self.output_dir)
        staging.mkdir(exist_ok=True)
        approach.save(staging)
        evaluation.save(staging)
        if train_metrics is None:
            train_metrics = costs(approach.model) | {"trainable_parameters": 0}
        eval_metrics: dict[str, Any] = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        eval_metrics["eval_samples"] = len(evaluation.predictions)
        eval_metrics |= interval_figures(evaluation)
        if trainer is not None:
            trainer.state.save_to_json(str(staging / STATE_FILE))
            eval_metrics |= {
                "best_metric_name": self.training_args.metric_for_best_model,
                "best_checkpoint_step": trainer.state.best_global_step,
                "epoch": trainer.state.epoch,
            }
            if self.training_args.load_best_model_at_end:
                chosen_by = str(self.training_args.metric_for_best_model)
                eval_metrics |= choice_figures(trainer.state.log_history, chosen_by)
        log_history = trainer.state.log_history if trainer is not None else []
        training = None
        if trainer is not None and rows is not None:
            training = Training.of(*rows, trainer, train_metrics, approach.max_length)
        results = train_metrics | eval_metrics
        diagnosis = examine(evaluation, results, approach.tokenizer, training, self.run_args.baseline)
        diagnosis.save(staging)
        card = render_card(
            staging,
            self.arguments,
            self.task,
            results,
            diagnosis,
            name=self.output_dir.rstrip("/").split("/")[-1],
            address=self.output_dir,
            pictures=expected_pictures(self.run_args.report, log_history, self.task),
            merged=self.run_args.merge_adapter,
        )
        write_text(staging / CARD_FILE, card)
        save_results(staging, train_metrics, eval_metrics)
        publish(self.output_dir, self.run_args.keep_checkpoints)
        return results, diagnosis

    def _merge(self, approach: Approach) -> None:
        staging, merged = staging_folder(self.output_dir), Path(self.output_dir) / MERGED_FOLDER
        shutil.rmtree(staging, ignore_errors=True)
        approach.merge(self.output_dir, staging)
        shutil.rmtree(merged, ignore_errors=True)
        staging.rename(merged)
