"""Try a finished run on some texts.

    python predict.py --model outputs/minilm "so happy for you 😂" "not again..."
    python predict.py --model outputs/minilm --file texts.txt --json > labels.jsonl
    grep happy texts.txt | python predict.py --model outputs/minilm

Without a text or --file, lines are read from standard input; empty ones are skipped. Texts that begin with a dash come
last, after `--`. A label is given where its probability reaches the run's threshold for it.
"""

import argparse
import json
import sys
from itertools import islice
from shutil import get_terminal_size

from utils.core.errors import UserError, exit_on_user_error

BAR = 24  # characters of a probability of 1
SHOWN = 12  # labels shown of each text, besides those that are given to it
LINES_AT_A_TIME = 1000
SYMBOLS = "█·▏▉✓…"
PLAIN = str.maketrans(SYMBOLS, "#.||*~")  # where the output cannot hold them


def bar(probability, threshold, size=BAR):
    """A probability as a bar of `size` characters, its threshold as a thin line in it."""
    full, at = round(probability * size), min(size - 1, int(threshold * size))
    cells = ["█" if i < full else "·" for i in range(size)]
    cells[at] = "▏" if at >= full else "▉"
    return "".join(cells)


def show(text, labels, probabilities, thresholds, columns=None):
    """The labels of one text for a person, the likeliest first.

    `columns`: width of the terminal; names too long for it are cut, and bars are shortened.
    """
    given = probabilities >= thresholds
    order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
    order = [i for rank, i in enumerate(order) if rank < SHOWN or given[i]]
    width, size = max(len(labels[i]) for i in order), BAR
    if columns is not None:
        room = columns - len("  ✓   0.000    threshold 0.000")  # for name and bar
        width = min(width, max(8, room - 8))
        size = min(BAR, max(4, room - width))
    names = [label if len(label) <= width else label[: width - 1] + "…" for label in labels]
    lines = [
        f"  {'✓' if given[i] else ' '} {names[i].ljust(width)}  {probabilities[i]:.3f}  "
        f"{bar(probabilities[i], thresholds[i], size)}  threshold {thresholds[i]:.3f}"
        for i in order
    ]
    return "\n".join([text, *lines, ""])


def read_lines(args):
    """The texts one by one, from the words, the file or standard input. Empty lines are skipped, and told at the end.

    Raises:
        UserError: for a file that cannot be read.
    """
    if args.texts:
        yield from args.texts
        return
    if args.file:
        name = args.file
        try:
            lines = open(args.file, encoding="utf-8-sig")  # noqa: SIM115 (read to its end below)
        except OSError as error:
            raise UserError(f"--file {args.file}: {error.strerror}") from error
    else:
        name, lines = "standard input", sys.stdin
        if lines is None:
            raise UserError("standard input is closed: give texts, or --file")
        lines.reconfigure(encoding="utf-8-sig", errors="strict")  # -sig: without a byte order mark
    empty = 0
    try:
        for line in lines:
            text = line.rstrip("\r\n")
            if text.strip():
                yield text
            else:
                empty += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: {error}") from error
    if empty:
        print(f"{name}: {empty} empty {'line' if empty == 1 else 'lines'} skipped", file=sys.stderr)


def _can_print(symbols):
    try:
        symbols.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse(message):
    if message.startswith("unrecognized arguments: -"):
        message += "; texts that begin with a dash come last, after --"
    raise UserError(message)


@exit_on_user_error
def main(argv=None):
    """Load the run, predict, print."""
    parser = argparse.ArgumentParser(
        prog="predict.py",
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
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_intermixed_args(argv[:end])  # texts may stand before and after flags
    args.texts += argv[end + 1 :]
    if args.texts and args.file:
        raise UserError("give texts or --file, not both")
    for number, text in enumerate(args.texts, start=1):
        if not text.strip():
            raise UserError(f"text {number} on the command line is empty: leave it out")
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be 1 or more")

    # Heavy imports come after --help, which should answer at once.
    import numpy as np
    import transformers

    from utils.data.text import normalize
    from utils.hub.push import local_folder
    from utils.runs.folder import load_thresholds
    from utils.runs.inference import load_run, predict_texts

    transformers.utils.logging.disable_progress_bar()
    args.model = local_folder(args.model)
    run = load_run(args.model)
    task = run.task
    thresholds, _, _ = load_thresholds(args.model, task.labels)
    symbols = _can_print(SYMBOLS)
    if not symbols and sys.stdout is not None:
        sys.stdout.reconfigure(errors="replace")
    columns = get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    lines = read_lines(args)
    while texts := list(islice(lines, LINES_AT_A_TIME)):
        normalized = [normalize(text, task.normalize_users, task.normalize_urls) for text in texts]
        for text, probabilities in zip(texts, predict_texts(run, normalized, args.batch_size)):
            if np.isnan(probabilities).any():
                raise UserError(f"{args.model} gives a probability that is NaN for {text!r}: its weights are broken")
            if args.json:
                given = [name for name, p, t in zip(task.labels, probabilities, thresholds) if p >= t]
                scores = {name: round(float(p), 6) for name, p in zip(task.labels, probabilities)}
                row = {"text": text, "labels": given, "probabilities": scores}
                print(json.dumps(row, ensure_ascii=not symbols))
            else:
                shown = show(text, task.labels, probabilities, thresholds, columns)
                print(shown if symbols else shown.translate(PLAIN))


if __name__ == "__main__":
    main()
