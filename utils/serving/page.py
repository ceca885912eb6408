"""The demo page and its HTTP interface, in Gradio."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Gradio is imported: it asks for neither news nor leave to report.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from utils.core.errors import UserError
from utils.serving.corrections import Corrections
from utils.serving.predictor import Predictor, as_json
from utils.serving.shown import answer_html, notice, words_html
from utils.serving.tables import FORMATS, predict_file

TEMPLATES = Path(__file__).parent / "templates"
FONTS = ["system-ui", "sans-serif"]  # of the reader's machine: Gradio's own would come from the net
# Requests for texts share the model one batch at a time; a file is predicted beside them, some rows at a time.
TEXTS: dict[str, Any] = {"concurrency_id": "texts"}
FILES: dict[str, Any] = {"concurrency_id": "files"}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
LONGEST_REQUEST = "20mb"
ASKED_AGAIN = 5  # times


@dataclass
class Limits:
    """What one request may ask for, and how many may wait.

    Args:
        characters: of a text.
        rows: of a file, and of a list of texts.
        waiting: requests; others are turned away at once.
        together: texts of requests that arrive together and are predicted together.
    """

    characters: int = 10_000
    rows: int = 10_000
    waiting: int = 256
    together: int = 32


def check_text(text: Any, limits: Limits) -> str | None:
    """What is wrong with a text to predict, in words for a person; None for one that can be predicted."""
    if not isinstance(text, str) or not text.strip():
        return "There is no text: type one."
    if len(text) > limits.characters:
        return f"The text has {len(text):,} characters, and this page takes {limits.characters:,}: shorten it."
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can hold
        return "The text holds signs that are no Unicode: take them out."
    return None


def build_page(
    predictor: Predictor,
    limits: Limits,
    examples: list[str],
    about: str,
    corrections: Corrections | None = None,
) -> gr.Blocks:
    """The page of some runs.

    Args:
        predictor: with the runs.
        limits: of requests.
        examples: texts to try.
        about: a line on the runs, as text.
        corrections: where right labels go; without it the page takes none.
    """
    page = gr.Blocks(title="Which labels?", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(f"<h1>Which labels?</h1>{notice(about, bad=False)}")
        text = gr.Textbox(label="Text", lines=3, max_lines=12, placeholder="Type or paste a text", elem_id="text")
        show = gr.Button("Show labels", variant="primary", elem_id="show")
        if examples:
            gr.Examples([[example] for example in examples], text, label="From the validation rows", **PRIVATE)
        result, asked = gr.HTML(elem_id="result"), gr.State("")
        words = _add_words(predictor, asked)
        boxes = _add_corrections(corrections, predictor, asked)
        _add_file(predictor, limits)
        _add_interface(predictor, limits)
        for event in (show.click, text.submit):
            event(
                _answer_pages(predictor, limits),
                text,
                [result, asked, words, boxes],
                batch=True,
                max_batch_size=limits.together,
                **TEXTS,
                **PRIVATE,
            )
    return page.queue(max_size=limits.waiting, status_update_rate=5, default_concurrency_limit=1)


def _answer_pages(predictor: Predictor, limits: Limits) -> Callable:
    """What the button does, for as many pages as have pressed it since the last batch."""

    def answer(texts: list[str]) -> tuple[list, list, list, list]:
        wrong = [check_text(text, limits) for text in texts]
        good = [text for text, fault in zip(texts, wrong) if fault is None]
        try:
            answers = iter(predictor.predict(good) if good else [])
        except UserError as error:
            wrong = [str(error)] * len(texts)
        shown, asked, likeliest, given = [], [], [], []
        for text, fault in zip(texts, wrong):
            if fault is not None:
                columns = notice(fault), "", gr.skip(), []
            else:
                found = next(answers)
                mean, right = predictor.together(found)
                said = [label for label, yes in zip(predictor.labels, right) if yes]
                html = answer_html(predictor, found, predictor.names_of_cut(text))
                columns = html, text, predictor.labels[mean.argmax()], said
            for column, value in zip((shown, asked, likeliest, given), columns):
                column.append(value)
        return shown, asked, likeliest, given

    return answer


def _add_words(predictor: Predictor, asked: gr.State) -> gr.Dropdown:
    """The part that shows which words carried a label."""
    names = [run.name for run in predictor.runs]
    with gr.Accordion("Which words carried a label?", open=False, elem_id="words-part"):
        with gr.Row():
            label = gr.Dropdown(predictor.labels, value=predictor.labels[0], label="Label", filterable=False)
            run = gr.Dropdown(names, value=names[0], label="Run", visible=len(names) > 1, filterable=False)
        ask = gr.Button("Leave each word out in turn", elem_id="ask-words")
        shown = gr.HTML(elem_id="words")

    def explain(text: str, label: str, run: str) -> str:
        if not text:
            return notice("Show the labels of a text first.")
        try:
            return words_html(predictor.leave_out(text, names.index(run), label), run, label)
        except UserError as error:
            return notice(str(error))

    ask.click(explain, [asked, label, run], shown, **TEXTS, **PRIVATE)
    return label


def _add_corrections(corrections: Corrections | None, predictor: Predictor, asked: gr.State) -> gr.CheckboxGroup:
    """The part that takes the right labels of a text."""
    with gr.Accordion("This is wrong", open=False, visible=corrections is not None, elem_id="wrong-part"):
        boxes = gr.CheckboxGroup(predictor.labels, label="Right labels of the text above", elem_id="right-labels")
        save = gr.Button("Save as training row", elem_id="save")
        saved = gr.HTML(elem_id="saved")

    def correct(text: str, labels: list[str]) -> str:
        if not text:
            return notice("Show the labels of a text first.")
        if corrections is None:  # the part is hidden; requests can be made all the same
            return notice("This page takes no corrections.")
        try:
            number = corrections.add(text, labels)
        except UserError as error:
            return notice(str(error))
        said = ", ".join(labels) or "no label"
        return notice(f"Saved with {said}: row {number} of {corrections.path}, which --train_file reads.", bad=False)

    save.click(correct, [asked, boxes], saved, concurrency_id="corrections", **PRIVATE)
    return boxes


def _add_file(predictor: Predictor, limits: Limits) -> None:
    """The part that takes a file and gives it back with labels."""
    with gr.Accordion("A whole file", open=False, elem_id="file-part"):
        kinds = ", ".join(FORMATS)
        column = " and ".join(f'"{name}"' for name in predictor.task.text_columns)
        gr.HTML(notice(f"{kinds}; texts in the column {column}; up to {limits.rows:,} rows.", bad=False))
        given = gr.File(label="File", elem_id="file", height=140)  # its kind is checked when it is read
        go = gr.Button("Predict the file", elem_id="predict-file")
        said, result = gr.HTML(elem_id="file-said"), gr.File(label="With labels", visible=False, elem_id="result-file")

    def predict_dropped(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[str, Any]:  # noqa: B008 (Gradio's way)
        if path is None:
            return notice("Drop a file first."), gr.skip()
        target = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")), f"{Path(path).stem[:80]}_labels.csv")

        def tell(done: int) -> None:
            progress((done, None), unit="rows")

        try:
            rows = predict_file(predictor, path, target, limits.rows, limits.characters, tell)
        except UserError as error:
            return notice(str(error)), gr.File(visible=False)
        return notice(f"{rows:,} rows predicted.", bad=False), gr.File(str(target), visible=True)

    go.click(predict_dropped, given, [said, result], show_progress_on=said, **FILES, **PRIVATE)


def _add_interface(predictor: Predictor, limits: Limits) -> None:
    """What programs call: one text, or a list of them."""

    def predict(text: str) -> dict:
        """Labels and probabilities of one text; texts of requests that arrive together are predicted together."""
        # The types are those of one request, as Gradio tells callers; it hands over the texts of several.
        texts: Any = text
        wrong = [check_text(one, limits) for one in texts]
        good = [one for one, fault in zip(texts, wrong) if fault is None]
        try:
            answers = iter(predictor.predict(good) if good else [])
        except UserError as error:
            wrong = [str(error)] * len(texts)
        said: Any = ([as_json(predictor, next(answers)) if fault is None else {"error": fault} for fault in wrong],)
        return said

    def predict_many(texts: list[str]) -> list[dict]:
        """Labels and probabilities of each of several texts, in their order."""
        if not isinstance(texts, list) or not texts:
            raise gr.Error("send a list of texts", print_exception=False)
        if len(texts) > limits.rows:
            raise gr.Error(f"{len(texts):,} texts, and at most {limits.rows:,} at a time", print_exception=False)
        for number, text in enumerate(texts, start=1):
            fault = check_text(text, limits)
            if fault is not None:
                raise gr.Error(f"text {number}: {fault}", print_exception=False)
        try:
            return [as_json(predictor, answer) for answer in predictor.predict(texts)]
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    gr.api(predict, api_name="predict", batch=True, max_batch_size=limits.together, **TEXTS)
    gr.api(predict_many, api_name="predict_many", **FILES)


def launch(page: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Gradio's `launch`, with nothing from the net and nothing kept; `options` say the address.

    Gradio gives up where its own first request takes more than 3 seconds, as on a busy machine. The server runs by
    then, and is asked again.

    Returns:
        the application, its address on this machine, and a public one where it has one.
    """
    options |= {
        "theme": gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        "css_paths": TEMPLATES / "demo.css",
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": LONGEST_REQUEST,
        "state_session_capacity": 1000,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
    }
    for _ in range(ASKED_AGAIN):
        try:
            return page.launch(**options)
        except ValueError as error:
            if "localhost is not accessible" not in str(error):
                raise
    return page.launch(**options)
