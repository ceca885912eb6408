"""What the demo page shows, as HTML: texts and names as text, whatever they hold."""

from __future__ import annotations

from html import escape

from utils.core.shown import printable
from utils.serving.predictor import Answer, Predictor

# Parts of a text named below it, of those for and those against a label; and how much they must count for that.
MOST_NAMED, LEAST_SHOWN = 5, 0.005


def as_html(text: str) -> str:
    """Text that HTML shows as it is, control characters as JSON writes them."""
    return escape(printable(text))


def notice(text: str, bad: bool = True) -> str:
    """A sentence for the person at the page."""
    return f'<p class="notice{" bad" if bad else ""}" role="status">{as_html(text)}</p>'


def answer_html(predictor: Predictor, answer: Answer, cut: list[str]) -> str:
    """The labels of a text, the likeliest first: bars with thresholds, agreement, a generator's answer.

    Args:
        predictor: that answered.
        answer: of it.
        cut: names of the runs that did not read the text to its end.
    """
    runs, labels = predictor.runs, predictor.labels
    votes = answer.given.sum(axis=0)
    order = sorted(range(len(labels)), key=lambda i: (-votes[i], -answer.probabilities[:, i].mean()))
    parts = [_verdict(predictor, answer)]
    for name in cut:
        limit = next(run.approach.max_length for run in runs if run.name == name)
        parts.append(notice(f"{name} reads {limit} tokens of a text: the rest of this one does not count.", bad=False))
    for i, run in enumerate(runs):
        decoded = answer.decoded[i]
        if decoded is not None:
            said = ", ".join(as_html(label) for label, yes in zip(labels, decoded) if yes) or "no label"
            parts.append(f'<p class="said">{as_html(run.name)} answers: <strong>{said}</strong></p>')
    if len(runs) > 1:
        names = "".join(f'<li><i class="key run{i % 4}"></i>{as_html(run.name)}</li>' for i, run in enumerate(runs))
        parts.append(f'<ul class="keys">{names}</ul>')
    parts += ['<div class="all-scored">', *(_label(predictor, answer, i) for i in order), "</div>"]
    line = (
        "The likeliest label is given." if predictor.task.single_label else "The line in it is its label's threshold."
    )
    parts.append(f'<p class="hint">A bar is a probability. {line}</p>')
    return "".join(parts)


def _verdict(predictor: Predictor, answer: Answer) -> str:
    """The labels that the runs give, and where they differ."""

    def names(chosen: list[int], kind: str = "chip") -> str:
        return " ".join(f'<span class="{kind}">{as_html(predictor.labels[i])}</span>' for i in chosen) or "no label"

    votes, runs = answer.given.sum(axis=0), len(predictor.runs)
    everyone = [i for i in range(len(votes)) if votes[i] == runs]
    if runs == 1:
        return f'<p class="verdict">{names(everyone)}</p>'
    some = [i for i in range(len(votes)) if 0 < votes[i] < runs]
    differ = f"<br>Some runs only: {names(some, 'chip some')}" if some else "<br>The runs agree on every label."
    return f'<p class="verdict">All {runs} runs: {names(everyone)}{differ}</p>'


def _label(predictor: Predictor, answer: Answer, label: int) -> str:
    """A label with a bar for each run."""
    name, bars = as_html(predictor.labels[label]), []
    for i, run in enumerate(predictor.runs):
        p, threshold, given = answer.probabilities[i, label], run.thresholds.values[label], answer.given[i, label]
        said, line = f"{p:.3f}: {'given' if given else 'not given'}", ""
        if threshold == threshold:  # else each text has one label, the likeliest
            said = f"{said}, threshold {threshold:.3f}"
            line = f'<b style="left:{100 * min(threshold, 0.995):.1f}%"></b>'
        bars.append(
            f'<div class="line{" given" if given else ""}" title="{as_html(run.name)}: {said}">'
            f'<div class="bar run{i % 4}" role="img" aria-label="{said}"><i style="width:{100 * p:.1f}%"></i>'
            f"{line}</div>"
            f'<span class="number">{"✓ " if given else ""}{p:.3f}</span></div>'
        )
    votes = int(answer.given[:, label].sum())
    agreed = f" <small>{votes} of {len(predictor.runs)}</small>" if len(predictor.runs) > 1 else ""
    return (
        f'<div class="scored{" given" if votes else ""}"><span class="name">{name}{agreed}</span>{"".join(bars)}</div>'
    )


def words_html(parts: list[tuple[str, float]], run: str, label: str) -> str:
    """A text whose parts are coloured by how much they carry a label, the strongest named below.

    Args:
        parts: of `Predictor.leave_out`.
        run: its name.
        label: the label's name.
    """
    largest = max((abs(value) for _, value in parts), default=0.0) or 1.0
    marks = "".join(
        f'<span class="{"for" if value > 0 else "against"}" style="--strength:{min(1, abs(value) / largest):.2f}" '
        f'title="{value:+.3f}">{as_html(part)}</span>'
        for part, value in parts
    )
    ordered = sorted(parts, key=lambda pair: -pair[1])
    named = []
    for title, chosen in (("Carry it", ordered[:MOST_NAMED]), ("Speak against it", ordered[::-1][:MOST_NAMED])):
        sign = 1 if title == "Carry it" else -1
        shown = [f"{as_html(part.strip())} {value:+.3f}" for part, value in chosen if sign * value >= LEAST_SHOWN]
        named.append(f"<p><strong>{title}:</strong> {'; '.join(shown) or 'nothing'}</p>")
    how = (
        f"By how much the probability of “{as_html(label)}” in {as_html(run)} falls when a part is left out "
        "(occlusion). Words that only count together do not show."
    )
    return f'<p class="carried">{marks}</p>{"".join(named)}<p class="hint">{how}</p>'
