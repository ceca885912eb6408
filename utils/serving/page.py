"""The demo page and its HTTP interface, in Gradio."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Gradio is imported: it asks for neither news nor leave to report.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from utils.core.errors import UserError
from utils.serving.corrections import Corrections
from utils.serving.guard import LONGEST_FILE, Guard, Names
from utils.serving.predictor import Answer, Predictor, as_json
from utils.serving.shown import answer_html, notice, words_html
from utils.serving.tables import FORMATS, predict_file

TEMPLATES = Path(__file__).parent / "templates"
FONTS = ["system-ui", "sans-serif"]  # of the reader's machine: Gradio's own would come from the net
# Requests for single texts wait for each other; files and lists are predicted beside them, some rows at a time.
TEXTS: dict[str, Any] = {"concurrency_id": "texts"}
FILES: dict[str, Any] = {"concurrency_id": "files"}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
ASKED_AGAIN = 5  # times


@dataclass
class Limits:
    """What one request may ask for, and how many may wait.

    Args:
        characters: of a text.
        rows: of a file, and of a list of texts.
        waiting: requests; others are turned away at once.
        together: texts of requests that arrive together and are predicted together.
        listed: characters of all texts of a list; as many as one text may have are always taken.
    """

    characters: int = 10_000
    rows: int = 10_000
    waiting: int = 256
    together: int = 32
    listed: int = 2_000_000


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
    about: list[str],
    corrections: Corrections | None = None,
) -> gr.Blocks:
    """The page of some runs.

    Args:
        predictor: with the runs.
        limits: of requests.
        examples: texts to try.
        about: lines on the runs, as text.
        corrections: where right labels go; without it the page takes none.
    """
    page = gr.Blocks(title="Which labels?", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML("<h1>Which labels?</h1>" + "".join(notice(line, bad=False) for line in about))
        text = gr.Textbox(label="Text", lines=3, max_lines=12, placeholder="Type or paste a text", elem_id="text")
        show = gr.Button("Show labels", variant="primary", elem_id="show")
        if examples:
            gr.Examples([[example] for example in examples], text, label="From the validation rows", **PRIVATE)
        result, asked = gr.HTML(elem_id="result"), gr.State("")
        words, explained = _add_words(predictor, asked)
        boxes, saved = _add_corrections(corrections, predictor, text, asked)
        _add_file(predictor, limits)
        _add_interface(predictor, limits)
        for event in (show.click, text.submit):
            event(
                _answer_pages(predictor, limits),
                text,
                [result, asked, words, boxes, explained, saved],
                batch=True,
                max_batch_size=limits.together,
                show_progress_on=result,
                **TEXTS,
                **PRIVATE,
            )
    # With Gradio's direct routes, requests would not have to wait in the queue, and its bound would hold none.
    return page.queue(max_size=limits.waiting, status_update_rate=5, default_concurrency_limit=1, api_open=False)


def answer_each(predictor: Predictor, limits: Limits, texts: list[Any]) -> list[Answer | str]:
    """What a predictor says of the texts of several requests, of each or in words for a person why it does not.

    Args:
        predictor: that is asked.
        limits: of requests.
        texts: one of each request, as it came.
    """
    wrong = [check_text(text, limits) for text in texts]
    answers = iter(predictor.predict([text for text, fault in zip(texts, wrong) if fault is None]))
    return [next(answers) if fault is None else fault for fault in wrong]


def _answer_pages(predictor: Predictor, limits: Limits) -> Callable:
    """What the button does, for as many pages as have pressed it since the last batch.

    What the parts below have said was of the text before, and is taken away.
    """

    def answer(texts: list[str]) -> tuple[list, list, list, list, list, list]:
        shown, asked, likeliest, given = [], [], [], []
        for text, found in zip(texts, answer_each(predictor, limits, texts)):
            if isinstance(found, str):
                columns = notice(found), "", gr.skip(), []
            else:
                mean, right = predictor.together(found)
                said = [label for label, yes in zip(predictor.labels, right) if yes]
                html = answer_html(predictor, found, predictor.names_of_cut(text))
                columns = html, text, predictor.labels[mean.argmax()], said
            for column, value in zip((shown, asked, likeliest, given), columns):
                column.append(value)
        nothing = [""] * len(texts)
        return shown, asked, likeliest, given, nothing, nothing

    return answer


def _add_words(predictor: Predictor, asked: gr.State) -> tuple[gr.Dropdown, gr.HTML]:
    """The part that shows which words carried a label; returns the label's choice, and where they are shown."""
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
    return label, shown


def _add_corrections(
    corrections: Corrections | None, predictor: Predictor, text: gr.Textbox, asked: gr.State
) -> tuple[gr.CheckboxGroup, gr.HTML]:
    """The part that takes the right labels of the text in the box; returns their choice, and what it says."""
    with gr.Accordion("This is wrong", open=False, visible=corrections is not None, elem_id="wrong-part"):
        boxes = gr.CheckboxGroup(predictor.labels, label="Right labels of the text above", elem_id="right-labels")
        save = gr.Button("Save as training row", elem_id="save")
        saved = gr.HTML(elem_id="saved")

    def correct(now: str, text: str, labels: list[str]) -> str:
        if not text:
            return notice("Show the labels of a text first.")
        if now != text:
            return notice("The text has changed since its labels were shown: show the labels of the new one first.")
        if corrections is None:  # the part is hidden; requests can be made all the same
            return notice("This page takes no corrections.")
        try:
            number, done = corrections.add(text, labels)
        except UserError as error:
            return notice(str(error))
        said = ", ".join(labels) or "no label"
        return notice(f"{done} {said}: row {number} of {corrections.path}, which --train_file reads.", bad=False)

    save.click(correct, [text, asked, boxes], saved, concurrency_id="corrections", **PRIVATE)
    return boxes, saved


def _add_file(predictor: Predictor, limits: Limits) -> None:
    """The part that takes a file and gives it back with labels."""
    with gr.Accordion("A whole file", open=False, elem_id="file-part"):
        kinds = ", ".join(FORMATS)
        column = " and ".join(f'"{name}"' for name in predictor.task.text_columns)
        together = (
            "" if len(predictor.runs) == 1 else " It comes back with the runs' mean and the labels of most of them."
        )
        gr.HTML(notice(f"{kinds}; texts in the column {column}; up to {limits.rows:,} rows.{together}", bad=False))
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
        answers = answer_each(predictor, limits, texts)
        said: Any = ([{"error": x} if isinstance(x, str) else as_json(predictor, x) for x in answers],)
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
        listed, most = sum(map(len, texts)), max(limits.listed, limits.characters)
        if listed > most:
            raise gr.Error(
                f"the texts have {listed:,} characters in all, and this page takes {most:,} at a time: send fewer",
                print_exception=False,
            )
        said = []
        for number, answer in enumerate(predictor.predict(texts), start=1):
            if isinstance(answer, str):
                raise gr.Error(f"text {number}: {answer}", print_exception=False)
            said.append(as_json(predictor, answer))
        return said

    gr.api(predict, api_name="predict", batch=True, max_batch_size=limits.together, **TEXTS)
    gr.api(predict_many, api_name="predict_many", **FILES)


def launch(
    page: gr.Blocks, host: str | None, port: int | None, share: bool = False, known_as: Collection[str] = ()
) -> tuple[Any, str, str]:
    """Gradio's `launch`, with nothing from the net and nothing kept; it does not wait for the end.

    Gradio gives up where its own first request takes more than 3 seconds, as on a busy machine. The server runs by
    then, and is asked again.

    Args:
        page: of `build_page`.
        host: address to listen on; None: that of Gradio's environment variable, else this machine's own.
        port: likewise.
        share: whether Gradio gives it a public address too.
        known_as: further names of this server, as a proxy's before it.

    Returns:
        the application, its address on this machine, and a public one where it has one.
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    # A Space and a shared page are there for everybody, by names that others give them.
    names = None if share or gr.utils.get_space() else Names.of(host, known_as)
    options: dict[str, Any] = {
        "server_name": host,
        "server_port": port,
        "share": share,
        "prevent_thread_lock": True,
        "theme": gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        "css_paths": TEMPLATES / "demo.css",
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": LONGEST_FILE,
        "state_session_capacity": 1000,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
    }
    for _ in range(ASKED_AGAIN):
        try:
            return page.launch(app_kwargs={"middleware": [Middleware(Guard, names=names)]}, **options)
        except ValueError as error:
            if "localhost is not accessible" not in str(error):
                raise
    raise UserError("Gradio's own first request was not answered: the machine is too busy, try again")
