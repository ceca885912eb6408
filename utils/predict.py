"""Try a finished run on some texts.

    python -m utils.predict --model outputs/minilm "so happy for you 😂" "not again..."
    python -m utils.predict --model outputs/minilm --file texts.txt --json > labels.jsonl
    grep happy texts.txt | python -m utils.predict --model outputs/minilm

Without a text or --file, lines are read from standard input. A label is given where its probability reaches the run's
threshold for it.
"""

import argparse
import json
import sys
from itertools import islice

from utils.errors import UserError, exit_on_user_error

BAR = 24  # characters of a probability of 1
SHOWN = 12  # labels shown of each text, besides those that are given to it
LINES_AT_A_TIME = 1000


def bar(probability, threshold):
    """A probability as a bar, its threshold as a thin line in it."""
    full, at = round(probability * BAR), min(BAR - 1, int(threshold * BAR))
    cells = ["█" if i < full else "·" for i in range(BAR)]
    cells[at] = "▏" if at >= full else "▉"
    return "".join(cells)


def show(text, labels, probabilities, thresholds):
    """The labels of one text for a person, the likeliest first."""
    given = probabilities >= thresholds
    order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
    order = [i for rank, i in enumerate(order) if rank < SHOWN or given[i]]
    width = max(len(labels[i]) for i in order)
    lines = [
        f"  {'✓' if given[i] else ' '} {labels[i].ljust(width)}  {probabilities[i]:.3f}  "
        f"{bar(probabilities[i], thresholds[i])}  threshold {thresholds[i]:.3f}"
        for i in order
    ]
    return "\n".join([text, *lines, ""])


def read_lines(args):
    """The texts one by one, from the words, the file or standard input.

    Raises:
        UserError: for an empty text, or a file that cannot be read.
    """
    if args.texts:
        name, lines = "the command line", args.texts
    elif args.file:
        name = args.file
        try:
            lines = open(args.file, encoding="utf-8")  # noqa: SIM115 (read to its end below)
        except OSError as error:
            raise UserError(f"--file {args.file}: {error.strerror}") from error
    else:
        name, lines = "standard input", sys.stdin
    try:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            if not text.strip():
                raise UserError(f"{name}, line {number} is empty: give a text in every line")
            yield text
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: {error}") from error


def _refuse(message):
    raise UserError(message)


@exit_on_user_error
def main(argv=None):
    """Load the run, predict, print."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = _refuse
    parser.add_argument("texts", nargs="*", help="texts to predict")
    parser.add_argument("--model", required=True, help="folder of a finished run, or its name on the hub")
    parser.add_argument("--file", help="file with a text in every line")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each text: text, labels, probabilities")
    parser.add_argument("--batch_size", type=int, default=32, help="texts predicted at a time")
    args = parser.parse_args(argv)
    if args.texts and args.file:
        raise UserError("give texts or --file, not both")
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be 1 or more")

    # Heavy imports come after --help, which should answer at once.
    import numpy as np
    import transformers

    from utils.hub import local_folder
    from utils.inference import load_run, predict_texts
    from utils.run_folder import load_thresholds
    from utils.text import normalize

    transformers.utils.logging.disable_progress_bar()
    args.model = local_folder(args.model)
    run = load_run(args.model)
    task = run.task
    thresholds, _, _ = load_thresholds(args.model, task.labels)
    lines = read_lines(args)
    while texts := list(islice(lines, LINES_AT_A_TIME)):
        normalized = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
        for text, probabilities in zip(texts, predict_texts(run, normalized, args.batch_size)):
            if np.isnan(probabilities).any():
                raise UserError(f"{args.model} gives a probability that is NaN for {text!r}: its weights are broken")
            if args.json:
                given = [name for name, p, t in zip(task.labels, probabilities, thresholds) if p >= t]
                scores = {name: round(float(p), 6) for name, p in zip(task.labels, probabilities)}
                print(json.dumps({"text": text, "labels": given, "probabilities": scores}, ensure_ascii=False))
            else:
                print(show(text, task.labels, probabilities, thresholds))


if __name__ == "__main__":
    main()
