"""Export a finished run for programs without torch.

    python export.py --model outputs/minilm --format onnx --output_dir outputs/minilm-onnx
    python export.py --model outputs/minilm --format onnx --int8 --output_dir outputs/minilm-int8

The folder then holds the model with adapters merged in, its tokenizer, labels, thresholds and text options, and
predict_onnx.py, which needs onnxruntime, tokenizers and numpy only. Before it is published its probabilities are
compared with the run's on the validation rows. make_submission.py, predict.py and demo.py take it like a run.

Label generators are not exported: docs/trying-and-serving.md says what serves them.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.core.errors import UserError
from utils.core.log import say
from utils.core.parser import option, script


@dataclass
class ExportArguments:
    """What to export, and how."""

    model: str = option(None, "folder of a finished run, or its name on the Hub")
    output_dir: str = option(None, "folder to write")
    format: str = option("onnx", "how the model is written", choices=["onnx"])
    int8: bool = option(False, "quantise the weights to 8 bit: a quarter of the size, other probabilities")
    overwrite: bool = option(False, "replace a folder that holds an exported model")
    skip_checks: bool = option(False, "use a run although its files are not those it was finished with")
    check_weights: bool = option(False, "read the weights whole to check them, not their size and header alone")
    trust_remote_code: bool = option(
        False, "run the code that an adapter's base model brings; read it first. The code of a run never is"
    )

    def __post_init__(self):
        for name in ("model", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing")


@script(__doc__, [ExportArguments], quiet=True)
def main(args: ExportArguments) -> None:
    """Load the run, write it as ONNX, compare both."""
    from utils.hub.pull import local_folder
    from utils.runs.folder import load_task
    from utils.serving.checks import check_exportable, check_installed, check_new_folder

    # Refuse what cannot work
    check_installed("requirements-export.txt")
    check = partial(check_new_folder, "output_dir", args.output_dir, "export.json", args.overwrite)
    check()
    folder = local_folder(args.model, args.skip_checks, args.check_weights)
    task = load_task(folder)
    check_exportable(folder)

    # Imported here because they load torch, and what is refused above should not.
    import transformers

    from utils.runs.inference import load_run
    from utils.serving.card import write_exported_card
    from utils.serving.export import compare, export_run, rows_to_compare
    from utils.serving.folders import new_folder

    # Load
    transformers.utils.logging.disable_progress_bar()
    rows = rows_to_compare(folder, task.labels)
    run = load_run(folder, args.trust_remote_code)

    # Export, compare, publish
    with new_folder(args.output_dir, check) as target:
        exported = export_run(run, folder, target, args.int8)
        comparison = compare(run, exported, folder, rows)
        comparison.refuse_if_far(args.int8)
        write_exported_card(target, Path(args.output_dir).name, comparison, args.int8)
    say("\n".join(["", comparison.table(), "", *comparison.notes()]))
    say(f"exported to {args.output_dir}: python {args.output_dir}/predict_onnx.py TEXT ...")


if __name__ == "__main__":
    main()
