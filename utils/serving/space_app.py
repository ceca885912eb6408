"""The demo page of one run as a Hugging Face Space: `python app.py`, beside `run/` and the code in `utils/`."""

from pathlib import Path

from utils.runs.manifest import check_files
from utils.serving.examples import about, example_texts
from utils.serving.page import Limits, build_page, launch
from utils.serving.predictor import Predictor

RUN = str(Path(__file__).parent / "run")

if __name__ == "__main__":
    check_files(RUN)
    page = build_page(Predictor.load([RUN]), Limits(), example_texts(RUN), about([RUN]))
    launch(page, share=False)
