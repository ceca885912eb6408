"""A classification head as ONNX: written, and compared with the run that it was made of."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.tables import format_bytes, format_table
from utils.hub.push import without_paths
from utils.models import predict_onnx
from utils.models.approaches import ADAPTER_FILE, Approach
from utils.models.onnx import MODEL_FILE, TOKENIZER_FILE
from utils.models.precision import compute_in_fp32
from utils.runs.folder import ARGUMENTS_FILE, RESULTS_FILE, load_arguments
from utils.runs.inference import load_run
from utils.runs.manifest import write_manifest
from utils.scoring.bootstrap import RESAMPLES, SEED, interval, plain_scores, resample
from utils.scoring.predictions import PREDICTIONS_FILE, Predictions
from utils.scoring.thresholds import THRESHOLDS_FILE, Thresholds
from utils.serving.folders import write_plain_run

EXPORT_FILE = "export.json"
ROWS_COMPARED = 500
# How far probabilities may be from the run's, and macro-F1 in points, before that is said.
FARTHEST, MOST_POINTS = 1e-3, 0.5
# A single file of ONNX holds less; weights of more bytes would take a second file.
LARGEST = 2 * 10**9
# Texts without truth to compare a run that has no validation predictions on, as one from the Hub.
SAMPLE_TEXTS = ("so happy for you 😂", "not again...", "@user I can't believe it http", "It was fine, I suppose. " * 20)


class _Logits(torch.nn.Module):
    """A model whose only result are its logits."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def write_onnx(run: Any, path: Path) -> None:
    """Write the model of a head in full, in fp32 on the CPU, as ONNX: token ids and their mask in, logits out.

    By torch's own exporter. Batches may have any number of rows and tokens.

    Args:
        run: a `Classifier` of a run in full.
        path: of the file.

    Raises:
        UserError: for a model that is too large, or that torch cannot export.
    """
    model = run.model.float().cpu().eval()
    size = sum(p.numel() * 4 for p in model.parameters())
    if size > LARGEST:
        raise UserError(f"{run.name} takes {format_bytes(size)} in fp32: one file of ONNX holds less than 2 GB")
    example = (torch.full((2, 8), 5), torch.ones(2, 8, dtype=torch.int64))
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx"), torch.inference_mode():  # it misses torchvision
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model),
                example,
                path,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": {0: rows, 1: tokens}, "attention_mask": {0: rows, 1: tokens}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        said = next(iter(str(error).split("\n\n")), "")
        raise UserError(f"torch cannot export {type(model).__name__}: {said}") from error


@contextmanager
def _quiet(logger: str | None) -> Generator[None]:
    """Let a logger, or all of them, pass on errors alone."""
    known = logging.getLogger(logger)
    level = known.level
    known.setLevel(logging.ERROR)
    try:
        yield
    finally:
        known.setLevel(level)


def quantise(path: Path) -> None:
    """Quantise the weights of an ONNX file to int8; activations are quantised as they come (dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet(None):  # it recommends a step that is for pictures
        quantize_dynamic(path, target, weight_type=QuantType.QInt8, per_channel=True)
    target.replace(path)


def write_tokenizer(run: Any, path: Path) -> None:
    """Write the tokenizer of a run as one file that cuts and pads by itself, as the run does.

    Raises:
        UserError: for a tokenizer that is not of the library tokenizers.
    """
    backend = getattr(run.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{run.name} has a tokenizer in Python, which programs without transformers cannot load")
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_str(backend.to_str())
    tokenizer.enable_truncation(run.max_length, direction=run.tokenizer.truncation_side)
    # To the right, also for decoders: no token sees those after it, and the head sees the last that is not padding.
    tokenizer.enable_padding(direction="right", pad_id=run.tokenizer.pad_token_id, pad_token=run.tokenizer.pad_token)
    tokenizer.save(str(path))


def export_run(run: Any, folder: str, target: Path, int8: bool) -> Approach:
    """Write an exported model: what predicts, and what it needs to say which labels.

    Args:
        run: a `Classifier`, loaded from `folder`.
        folder: of the finished run.
        target: an empty folder.
        int8: whether weights are quantised.

    Returns:
        what the new folder predicts with.
    """
    arguments = load_arguments(folder)
    with tempfile.TemporaryDirectory(dir=target, ignore_cleanup_errors=True) as temporary:
        plain = run
        if (Path(folder) / ADAPTER_FILE).exists():
            write_plain_run(run, folder, Path(temporary), in_fp32=True)
            plain = load_run(temporary)
        write_onnx(plain, target / MODEL_FILE)
    if int8:
        quantise(target / MODEL_FILE)
    write_tokenizer(run, target / TOKENIZER_FILE)
    run.task.save(target)
    for name in (THRESHOLDS_FILE, RESULTS_FILE):
        shutil.copy(Path(folder, name), target / name)
    shutil.copy(predict_onnx.__file__, target / "predict_onnx.py")
    write_json(target / ARGUMENTS_FILE, without_paths(arguments) | {"exported": "onnx, int8" if int8 else "onnx"})
    write_manifest(target)
    return load_run(target)


@dataclass
class Check:
    """An exported model beside its run.

    Args:
        rows: that probabilities were compared on.
        farthest: largest difference of a probability.
        size: bytes of the exported model.
        run_size: bytes of the run's weights.
        rate: rows that the exported model predicts in a second.
        run_rate: rows that the run predicts in a second, in fp32.
        scored_rows: validation rows with their truth, 0 where there are none.
        f1_macro: of the exported model on these, at the run's thresholds.
        run_f1_macro: of the run.
        intervals: of these two over the rows at 95 %, the run's first; they hold no luck of choosing the thresholds.
    """

    rows: int
    farthest: float
    size: int
    run_size: int
    rate: float
    run_rate: float
    scored_rows: int = 0
    f1_macro: float = float("nan")
    run_f1_macro: float = float("nan")
    intervals: tuple[tuple[float, float], ...] = ()

    @property
    def points(self) -> float:
        """Points of macro-F1 that the exported model has more."""
        return 100 * (self.f1_macro - self.run_f1_macro)

    def refuse_if_far(self, int8: bool) -> None:
        """Refuse an export in fp32 whose probabilities are others than the run's.

        Raises:
            UserError: for a probability that is too far.
        """
        if not int8 and not self.farthest <= FARTHEST:
            raise UserError(
                f"a probability of the exported model is {self.farthest:.1e} from the run's, more than {FARTHEST}: "
                "nothing is written; please report it with the name of the base model"
            )

    def table(self, markdown: bool = False) -> str:
        """The run and the exported model, a line each."""
        scores = ["-", "-"]
        if self.scored_rows:
            values = zip((self.run_f1_macro, self.f1_macro), self.intervals)
            scores = [f"{value:.4f} [{low:.3f}, {high:.3f}]" for value, (low, high) in values]
        cells = [
            ["run, torch", format_bytes(self.run_size), "-", scores[0], f"{self.run_rate:.0f}"],
            ["exported", format_bytes(self.size), f"{self.farthest:.1e}", scores[1], f"{self.rate:.0f}"],
        ]
        return format_table(["", "size", "farthest probability", "macro-F1", "rows/s"], cells, markdown)

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        scored = (
            f"macro-F1 at the run's thresholds on the {self.scored_rows} validation rows they were chosen on, which is "
            "too good for both alike; in brackets: 95 % interval over the rows"
        )
        notes = [f"probabilities of {self.rows} rows compared" + (f"; {scored}" if self.scored_rows else "")]
        if self.scored_rows and abs(self.points) > MOST_POINTS:
            notes.append(f"WARNING: macro-F1 is {self.points:+.2f} points from the run's: more than {MOST_POINTS}")
        return notes


def rows_to_compare(folder: str, labels: list[str]) -> Predictions:
    """The validation rows of a run; of one from the Hub, which has none, some texts without their truth."""
    if (Path(folder) / PREDICTIONS_FILE).is_file():
        return Predictions.load(folder, labels)
    return Predictions(labels, list(map(str, range(len(SAMPLE_TEXTS)))), list(SAMPLE_TEXTS))


def compare(
    run: Any,
    exported: Approach,
    folder: str,
    rows: Predictions,
    batch_size: int = 32,
    clock: Callable[[], float] = time.perf_counter,
) -> Check:
    """Predict the same rows with a run and with what it was exported to, one after the other.

    The run computes in fp32 from now on, as the exported model does.

    Args:
        run: loaded from `folder`.
        exported: of the same labels.
        folder: of the run, whose thresholds count.
        rows: of `rows_to_compare`.
        batch_size: rows predicted at a time.
        clock: gives the seconds that rates are of.
    """
    run.compute_dtype = torch.float32
    compute_in_fp32(run.model)
    found, rates = [], []
    for approach in (run, exported):
        approach.predict(rows.texts[:batch_size], batch_size)  # whatever is set up at the first batch
        start = clock()
        found.append(approach.predict(rows.texts, batch_size).probabilities)
        rates.append(len(rows) / (clock() - start))
    compared = slice(0, ROWS_COMPARED)
    farthest = float(np.abs(found[0][compared] - found[1][compared]).max())
    weights = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    size = (Path(exported.name) / MODEL_FILE).stat().st_size
    check = Check(len(rows.texts[compared]), farthest, size, weights, rates[1], rates[0])
    if rows.truth is not None:
        thresholds = Thresholds.load(folder, rows.labels)
        given = [thresholds.apply(probabilities) for probabilities in found]
        scores = [plain_scores(rows.truth, one)["f1_macro"] for one in given]
        drawn = [resample(rows.truth, one, RESAMPLES, SEED, rows.near_duplicates)["f1_macro"] for one in given]
        check.run_f1_macro, check.f1_macro = scores
        check.intervals = tuple(interval(values, score) for values, score in zip(drawn, scores))
        check.scored_rows = len(rows)
    return check
