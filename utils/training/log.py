"""The log of a training as lines that a person reads."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

from utils.scoring.scores import ACCURACY, DECODED, SCORES, TUNED, is_likeliest, shown_scores

LOGGED = tuple(score for score in SCORES if score.logged and score.name != "f1_macro")


def describe_logs(logs: dict[str, float]) -> str | None:
    """One line for the terminal: losses and scores, without the figures of each label; None for other entries."""
    if "eval_loss" in logs:
        scores = {name.removeprefix("eval_"): value for name, value in logs.items()}
        macro = f"{logs['eval_f1_macro']:.4f}{'' if is_likeliest(scores) else ' at 0.5'}"
        for kind, how in ((TUNED, "tuned"), (DECODED, "of the answers")):
            if f"eval_f1_macro{kind}" in logs:
                macro += f", {logs[f'eval_f1_macro{kind}']:.4f} {how}"
        if "eval_half_width" in logs:
            macro += f" (each ± {logs['eval_half_width']:.3f} over the rows)"
        shown = shown_scores(LOGGED, ACCURACY in scores)
        more = "".join(f", {score.title} {scores[score.name]:.4f}" for score in shown)
        return f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.4f}, macro-F1 {macro}{more}"
    if "loss" in logs:
        accuracy = f", token accuracy {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        return (
            f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.4f}{accuracy}, learning rate {logs['learning_rate']:.2e}"
        )
    return None


class LogWithProgressBar(ProgressCallback):
    """Trainer's progress bar; the log as readable lines above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = describe_logs(logs)
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


class LogWithoutProgressBar(PrinterCallback):
    """The log as readable lines, for `--disable_tqdm`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = describe_logs(logs)
        if line and state.is_world_process_zero:
            print(line, flush=True)


def use_readable_log(trainer: Trainer) -> None:
    """Replace the callback that prints Trainer's dictionaries."""
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(LogWithoutProgressBar if trainer.args.disable_tqdm else LogWithProgressBar)
