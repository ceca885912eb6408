"""The log of a training as lines that a person reads."""

from transformers import PrinterCallback, ProgressCallback


def describe_logs(logs):
    """One line for the terminal: losses and summary scores, without the figures of each label."""
    if "eval_loss" in logs:
        tuned = f", {logs['eval_f1_macro_tuned']:.4f} tuned" if "eval_f1_macro_tuned" in logs else ""
        if "eval_f1_macro_decoded" in logs:
            tuned += f", {logs['eval_f1_macro_decoded']:.4f} of the answers"
        return (
            f"epoch {logs['epoch']:.2f}: validation loss {logs['eval_loss']:.4f}, "
            f"macro-F1 {logs['eval_f1_macro']:.4f} at 0.5{tuned}, micro-F1 {logs['eval_f1_micro']:.4f}, "
            f"Jaccard {logs['eval_jaccard']:.4f}, mAP {logs['eval_map']:.4f}"
        )
    if "loss" in logs:
        accuracy = f", token accuracy {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        return (
            f"epoch {logs['epoch']:.2f}: loss {logs['loss']:.4f}{accuracy}, learning rate {logs['learning_rate']:.2e}"
        )
    return None


class LogWithProgressBar(ProgressCallback):
    """Trainer's progress bar; the log as readable lines above it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = describe_logs(logs)
        if line and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(line)


class LogWithoutProgressBar(PrinterCallback):
    """The log as readable lines, for `--disable_tqdm`."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = describe_logs(logs)
        if line and state.is_world_process_zero:
            print(line, flush=True)


def use_readable_log(trainer):
    """Replace the callback that prints Trainer's dictionaries."""
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(LogWithoutProgressBar if trainer.args.disable_tqdm else LogWithProgressBar)
