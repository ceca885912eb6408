"""The log of a training as lines that a person reads."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

from utils.scoring.scores import ACCURACY, AT_HALF, DECODED, SCORES, TUNED, by_name, is_likeliest, shown_scores

HOW = {AT_HALF: "at 0.5", TUNED: "tuned", DECODED: "of the answers"}


def describe_logs(logs: dict[str, float], best_by: str = "f1_macro") -> str | None:
    """One line for the terminal: losses and scores, without the figures of each label; None for other entries.

    Args:
        logs: an entry of Trainer's log.
        best_by: the score that stands first, of every kind of predictions and with half of its 95 % interval.
    """
    if "eval_loss" in logs:
        scores = {name.removeprefix("eval_"): value for name, value in logs.items()}
        main = by_name(best_by)
        alone = main.of_probabilities or is_likeliest(scores)
        kinds = {kind: how for kind, how in HOW.items() if f"{best_by}{kind}" in scores}
        values = [f"{scores[f'{best_by}{kind}']:.4f} {'' if alone else how}".strip() for kind, how in kinds.items()]
        first = f"{main.title} {', '.join(values)}"
        if "half_width" in scores:
            first += f" ({'each ' if len(kinds) > 1 else ''}± {scores['half_width']:.3f} over the rows)"
        others = tuple(score for score in SCORES if score.logged and score is not main)
        shown = shown_scores(others, ACCURACY in scores)
        more = "".join(f", {score.title} {scores[score.name]:.4f}" for score in shown)
        return f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.4f}, {first}{more}"
    if "loss" in logs:
        accuracy = f", token accuracy {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        return (
            f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.4f}{accuracy}, learning rate {logs['learning_rate']:.2e}"
        )
    return None


class LogWithProgressBar(ProgressCallback):
    """Trainer's progress bar; the log as readable lines above it, `best_by` first."""

    def __init__(self, best_by: str):
        super().__init__()
        self.best_by = best_by

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = describe_logs(logs, self.best_by)
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


class LogWithoutProgressBar(PrinterCallback):
    """The log as readable lines, for `--disable_tqdm`."""

    def __init__(self, best_by: str):
        super().__init__()
        self.best_by = best_by

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = describe_logs(logs, self.best_by)
        if line and state.is_world_process_zero:
            print(line, flush=True)


def use_readable_log(trainer: Trainer, best_by: str = "f1_macro") -> None:
    """Replace the callback that prints Trainer's dictionaries; the score that all is chosen for stands first."""
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback((LogWithoutProgressBar if trainer.args.disable_tqdm else LogWithProgressBar)(best_by))
