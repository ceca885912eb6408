"""What a person calls a run and its costs."""

from utils.core.tables import format_bytes, format_seconds, format_share
from utils.models.approaches import describe_approach
from utils.runs.finished import model_name


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
