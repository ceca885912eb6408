"""What a person calls a run and its costs."""

import pkgutil
from fnmatch import fnmatch

from conftest import ROOT
from utils.core.tables import format_bytes, format_seconds, format_share
from utils.data.task import TASK_FILE
from utils.doctor.finding import DOCTOR_FILE
from utils.models.approaches import ADAPTER_FILE, APPROACHES, Approach, describe_approach
from utils.models.classifier import Classifier
from utils.models.generator.answering import GENERATION_FILE
from utils.models.generator.generator import LabelGenerator
from utils.runs.finished import model_name
from utils.runs.folder import RUN_FILES
from utils.scoring.predictions import PREDICTIONS_FILE
from utils.scoring.thresholds import THRESHOLDS_FILE


def test_approach():
    def words(**arguments):
        return describe_approach({"script": "run_classifier.py"} | arguments)

    generator = {"script": "run_sft_labels.py"}
    assert words() == "head, full"
    assert words(use_peft=True) == "head, LoRA"
    assert words(use_peft=True, use_dora=True) == "head, DoRA"
    assert words(use_peft=True, load_in_4bit=True) == "head, QLoRA"
    assert words(use_peft=True, load_in_8bit=True) == "head, LoRA, 8 bit"
    assert words(**generator, use_peft=True, load_in_4bit=True) == "label generation, QLoRA"
    assert words(**generator, eval_only=True) == "label generation, zero-shot"


def test_units(tmp_path):
    assert [format_share(share) for share in (None, 1, 0.035, 0.0021)] == ["-", "100 %", "3.5 %", "0.21 %"]
    assert [format_seconds(seconds) for seconds in (None, 42, 228, 9000)] == ["-", "42 s", "3.8 min", "2.5 h"]
    assert [format_bytes(size) for size in (None, 2**29, 3 * 2**30)] == ["-", "512 MiB", "3.0 GiB"]
    assert model_name({"model_name_or_path": "Qwen/Qwen3-0.6B"}) == "Qwen/Qwen3-0.6B"
    assert model_name({"model_name_or_path": str(tmp_path / "tiny")}) == "tiny"


def test_the_table_of_files_holds_all_that_a_run_writes(trained):
    written = [str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()]
    unknown = [name for name in written if not any(fnmatch(name, file.pattern) for file in RUN_FILES)]
    assert written
    assert unknown == []
    patterns = {file.pattern for file in RUN_FILES}
    # Rooms below know the names of files that they read and write.
    assert {PREDICTIONS_FILE, THRESHOLDS_FILE, GENERATION_FILE, TASK_FILE, ADAPTER_FILE, DOCTOR_FILE} <= patterns
    assert all(file.pushed for file in RUN_FILES if file.needed)
    for approach in (Classifier, LabelGenerator):
        needed = [file.pattern for file in RUN_FILES if file.needed]
        assert all(any(fnmatch(name, pattern) for pattern in needed) for name in approach.files)


def test_the_approaches_have_the_same_methods():
    wanted = {name for name in vars(Approach) if not name.startswith("_")} | {"model_arguments", "files"}
    for approach in (Classifier, LabelGenerator):
        assert wanted <= set(dir(approach))
    for script, (_, path) in APPROACHES.items():
        assert (ROOT / script).is_file()
        assert pkgutil.resolve_name(path) in (Classifier, LabelGenerator)
