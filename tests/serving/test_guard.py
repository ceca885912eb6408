"""What the demo's server refuses: web pages of others, bodies without an end, lists that are too long, ways around."""

import http.client
import json

import pytest

from conftest import free_port
from counting import counting
from demo_server import call

pytest.importorskip("gradio", reason="the extra is not installed: requirements-demo.txt")

from utils.serving.corrections import Corrections
from utils.serving.guard import LONGEST_BODY, LONGEST_FILE, Names
from utils.serving.page import Limits, build_page, launch

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=xx"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two runs without models, served by this process; `port` is where."""
    predictor = counting("joy", "fear", thresholds=(0.6, 0.9))
    corrections = Corrections(tmp_path_factory.mktemp("guard") / "corrections.csv", predictor.task)
    page = build_page(predictor, Limits(characters=1000, listed=5000), ["joy"], ["two runs"], corrections)
    page.port = free_port()
    launch(page, "127.0.0.1", page.port, known_as=["demo.example.org"])
    yield page
    page.close()


def post(page, path, body, headers, method="POST"):
    """`(status, what was said)`."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=120)
    connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
    response = connection.getresponse()
    said = response.read().decode()
    connection.close()
    return response.status, json.loads(said)["detail"] if response.status >= 400 else said


OWN = [{}, {"Origin": "http://127.0.0.1:{port}"}, {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
       {"Host": "[::1]:{port}"}, {"Host": "demo.example.org", "Origin": "https://demo.example.org"},
       {"Origin": "https://demo.example.org"}]  # fmt: skip
FOREIGN = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
           {"Origin": "http://[bad"}, {"Origin": "https://demo.example.org.evil.example"}]  # fmt: skip


@pytest.mark.parametrize("headers", OWN)
def test_its_own_page_and_programs_are_answered(page, headers):
    headers = {name: value.format(port=page.port) for name, value in headers.items()}
    assert call(page.port, "predict", "joy", **headers)[1]["labels"] == []  # one of two runs
    assert post(page, "/", None, headers, "GET")[0] == 200


@pytest.mark.parametrize("headers", FOREIGN)
def test_web_pages_of_others_are_not(page, headers):
    for path, body, kind in (
        ("/gradio_api/call/predict", '{"data": ["joy"]}', {"Content-Type": "text/plain"}),  # browsers ask no leave
        ("/gradio_api/queue/join", '{"data": ["joy"], "session_hash": "x", "fn_index": 0}', JSON),
        ("/gradio_api/upload", "--xx--", FORM),
    ):
        status, said = post(page, path, body, kind | headers)
        assert (status, "other web pages are not answered" in said) == (403, True)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "[bad"])
def test_a_name_that_is_not_its_own_is_not(page, host):
    host = host.format(port=page.port)
    status, said = post(page, "/config", None, {"Host": host, "Origin": f"http://{host}"}, "GET")
    assert (status, "does not go by this name" in said) == (403, True)


def test_a_network_reaches_it_by_any_name():
    names = Names.of("0.0.0.0", ["proxy.example"])
    assert names.fault("10.0.0.7:7860", None) is None
    assert names.fault("10.0.0.7:7860", "http://10.0.0.7:7860") is None
    assert names.fault("10.0.0.7:7860", "https://PROXY.example") is None
    assert names.fault("10.0.0.7:7860", "https://evil.example") is not None


HEAD = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'


def parts(size):
    """A body of unknown length, that begins as a form does."""
    yield HEAD
    for _ in range(0, size, 2**20):
        yield b" " * 2**20


@pytest.mark.parametrize("path", ["/gradio_api/call/predict", "/gradio_api/queue/join", "/gradio_api/upload"])
@pytest.mark.parametrize("times", [1, 30])
def test_long_bodies_are_refused_in_words(page, path, times):
    upload = path.endswith("upload")
    most = LONGEST_FILE if upload else LONGEST_BODY
    kind = FORM if upload else JSON
    told = f"The request is longer than {most // 2**20} MB: send less at a time."
    if times == 1:
        assert post(page, path, b" " * (most + 2**20), kind) == (413, told)
        assert post(page, path, parts(most + 2**21), kind | {"Transfer-Encoding": "chunked"}) == (413, told)
        assert post(page, path, b"", kind | {"Content-Length": str(2**40), "Expect": "100-continue"}) == (413, told)
    else:  # read no further; whether the answer arrives is up to the client
        with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
            assert post(page, path, parts(times * most), kind | {"Transfer-Encoding": "chunked"})[0] != 413
    assert call(page.port, "predict", "fear")[0] == 200


def test_a_file_within_the_bound_is_taken(page):
    status, said = post(page, "/gradio_api/upload", HEAD + b"x" * (LONGEST_FILE - 200) + b"\r\n--xx--\r\n", FORM)
    assert status == 200
    assert said.endswith('a.csv"]')


def test_a_list_is_bounded_in_all(page):
    told = "the texts have 5,400 characters in all, and this page takes 5,000 at a time: send fewer"
    assert call(page.port, "predict_many", ["x" * 900] * 6) == (500, told)
    status, rows = call(page.port, "predict_many", ["x" * 900] * 5)
    assert (status, len(rows)) == (200, 5)
    assert call(page.port, "predict_many", ["joy", "(NaN)"])[1].startswith("text 2: run0 gives a probability that is")
    assert "NaN" in call(page.port, "predict", "(NaN)")[1]["error"]


@pytest.mark.parametrize("path", ["/gradio_api/run/predict", "/gradio_api/api/predict"])
def test_nothing_passes_the_queue(page, path):
    assert post(page, path, '{"data": ["joy"]}', JSON)[0] == 404


def test_a_correction_is_of_the_text_that_is_shown(page):
    (correct,) = (function.fn for function in page.fns.values() if function.name == "correct")
    assert "Show the labels of a text first" in correct("joy", "", ["joy"])
    assert "has changed since" in correct("joy and more", "joy", ["joy"])
    assert "Saved with joy: row 1 of" in correct("joy", "joy", ["joy"])
    assert "Saved already with joy: row 1 of" in correct("joy", "joy", ["joy"])
    assert "Changed to no label: row 1 of" in correct("joy", "joy", [])
    assert "Saved with fear: row 2 of" in correct("fear", "fear", ["fear"])
