"""The demo page of one run as a Hugging Face Space: `python app.py`, beside `run/` and the code in `utils/`."""

from pathlib import Path

import transformers

from utils.core.errors import exit_on_user_error
from utils.runs.manifest import check_files
from utils.serving.examples import about, example_texts
from utils.serving.page import Limits, build_page
from utils.serving.predictor import Predictor
from utils.serving.server import own_temporary_folder, serve

RUN = str(Path(__file__).parent / "run")


@exit_on_user_error
def main() -> None:
    """Check the run, load it, serve the page."""
    check_files(RUN)
    transformers.utils.logging.disable_progress_bar()
    predictor = Predictor.load([RUN])
    with own_temporary_folder():
        serve(build_page(predictor, Limits(), example_texts(RUN), about([RUN], predictor.names)))


if __name__ == "__main__":
    main()
