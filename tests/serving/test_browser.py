"""The demo page in a real browser: typed into, clicked, given files and corrections, on a phone and on a desk."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from conftest import SAMPLE
from demo_server import served_demo
from utils.core.files import read_json
from utils.runs.folder import load_task

pytest.importorskip("gradio", reason="the extra is not installed: requirements-demo.txt")
pytest.importorskip("playwright", reason="the extra is not installed: requirements-browser.txt")

from playwright.sync_api import expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
NASTY = "<script>document.title='taken'</script> so happy ${1+1} {{7*7}} <img src=x onerror=\"document.title='taken'\">"
SECONDS = 60_000  # milliseconds, of a machine that does other things too
LATE = {"timeout": SECONDS}


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    with served_demo(trained, tmp_path_factory.mktemp("demo"), "--max_rows", 200) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(params=[390, 1280])
def page(server, browser, request):
    """The page at the width of a phone and of a desk; nothing but the server may be asked, and no script may fail."""
    opened = browser.new_page(viewport={"width": request.param, "height": 844}, accept_downloads=True)
    asked, failed = [], []
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.set_default_timeout(SECONDS)
    opened.goto(server.url)
    opened.wait_for_selector("#text textarea")
    yield opened
    if pictures := os.environ.get("DEMO_PICTURES"):  # a folder, for a person to look at
        opened.screenshot(path=Path(pictures) / f"{request.node.name}.png", full_page=True)
    assert opened.evaluate("document.documentElement.scrollWidth") <= request.param  # nothing sticks out
    assert opened.title() == "Which labels?"
    assert not failed
    assert all(url.startswith((server.url, "data:", "blob:")) for url in asked)
    opened.close()


def ask(page, text):
    page.fill("#text textarea", text)
    page.click("#show")


def open_part(page, name):
    page.click(f"#{name} > button")


def test_a_text_is_typed_explained_and_corrected(page, server, trained):
    labels = load_task(trained).labels
    before = len(pd.read_csv(server.corrections)) if server.corrections.exists() else 0
    text = f"{NASTY} {page.viewport_size['width']}"  # of its own, as the file has each text once
    ask(page, text)
    bars = page.locator("#result .scored")
    expect(bars).to_have_count(len(labels), **LATE)
    given = page.locator("#result .chip").all_inner_texts()
    assert sorted(given) == sorted(page.locator("#result .scored.given .name").all_inner_texts())
    open_part(page, "words-part")
    page.click("#ask-words")
    words = page.locator("#words .carried")
    expect(words).to_contain_text("so happy", **LATE)
    assert " ".join(words.inner_text().split()) == text  # shown as text, to the letter
    open_part(page, "wrong-part")
    boxes = page.locator("#right-labels input[type=checkbox]")
    expect(boxes).to_have_count(len(labels), **LATE)
    for label, box in zip(labels, boxes.all()):
        expect(box).to_be_checked(checked=label in given, **LATE)  # what the run has said, to begin with
        box.set_checked(label in ("joy", "trust"))
    page.click("#save")
    expect(page.locator("#saved")).to_contain_text(f"row {before + 1} of", **LATE)
    page.click("#save")
    expect(page.locator("#saved")).to_contain_text(f"Saved already with joy, trust: row {before + 1} of", **LATE)
    page.fill("#text textarea", "something else")
    page.click("#save")
    expect(page.locator("#saved")).to_contain_text("The text has changed since its labels were shown", **LATE)
    ask(page, " ")
    expect(page.locator("#result")).to_contain_text("There is no text: type one.", **LATE)
    expect(page.locator("#words .carried, #saved .notice")).to_have_count(0, **LATE)  # they were of the text before
    rows = pd.read_csv(server.corrections)
    assert len(rows) == before + 1
    last = rows.iloc[-1]
    assert last["Tweet"] == text
    assert [label for label in labels if last[label]] == ["joy", "trust"]


def test_an_example_is_taken_and_cut(page, trained):
    texts = set(pd.read_parquet(trained / "predictions" / "validation.parquet")["text"])
    page.locator("button.gallery-item").first.click()
    page.wait_for_function("document.querySelector('#text textarea').value !== ''")
    assert page.input_value("#text textarea") in texts
    ask(page, "so happy " * 200)
    expect(page.locator("#result")).to_contain_text("the rest of this one does not count", **LATE)


def test_what_cannot_be_predicted_is_said(page, tmp_path):
    ask(page, "   ")
    expect(page.locator("#result")).to_contain_text("There is no text: type one.", **LATE)
    ask(page, "x" * 100_000)
    expect(page.locator("#result")).to_contain_text("100,000 characters, and this page takes 10,000", **LATE)
    assert page.locator("#result .scored").count() == 0
    open_part(page, "words-part")
    page.click("#ask-words")
    expect(page.locator("#words")).to_contain_text("Show the labels of a text first.", **LATE)
    open_part(page, "wrong-part")
    page.click("#save")
    expect(page.locator("#saved")).to_contain_text("Show the labels of a text first.", **LATE)
    open_part(page, "file-part")
    page.click("#predict-file")
    expect(page.locator("#file-said")).to_contain_text("Drop a file first.", **LATE)
    (tmp_path / "mine.csv").write_text("id,words\n1,<b>hello</b>\n")
    drop(page, tmp_path / "mine.csv")
    expect(page.locator("#file-said")).to_contain_text(
        'mine.csv has no column "Tweet", which holds the texts; its columns are: id, words. Rename one', **LATE
    )
    assert str(tmp_path) not in page.locator("#file-said").inner_text()


def drop(page, path):
    page.set_input_files("#file input[type=file]", path)
    expect(page.locator("#file")).to_contain_text(path.stem, **LATE)
    page.click("#predict-file")


def test_a_file_comes_back_with_labels(page, trained, tmp_path):
    open_part(page, "file-part")
    drop(page, SAMPLE / "validation.csv")
    expect(page.locator("#file-said")).to_contain_text("124 rows predicted.", **LATE)
    with page.expect_download() as download:
        page.locator("#result-file a[download]").first.click()
    download.value.save_as(tmp_path / "back.csv")
    back = pd.read_csv(tmp_path / "back.csv", keep_default_na=False)
    sent = pd.read_csv(SAMPLE / "validation.csv")
    saved = pd.read_parquet(trained / "predictions" / "validation.parquet")
    assert list(back["Tweet"]) == list(sent["Tweet"])
    assert list(back["ID"]) == list(sent["ID"])
    thresholds = read_json(trained / "thresholds.json")["thresholds"]
    for label, threshold in thresholds.items():
        found = back[f"probability/{label}"]
        assert (found - saved[f"probability/{label}"]).abs().max() < 0.01
        near = (found - threshold).abs() < 1e-5  # the file has six digits
        named = back["labels"].str.split(", ").map(lambda names, x=label: x in names)
        assert (named == (found >= threshold))[~near].all()
