"""The README.md of a run folder: scores, and how to load the model."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render_card(**values):
    """Fill `model_card.md.jinja`; a value it names and is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md.jinja").render(**values)
