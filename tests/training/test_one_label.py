"""One label per text, and one label in all: recognised, trained, scored and predicted by both approaches."""

import itertools
import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

import make_submission
import predict
import run_classifier
import run_sft_labels
from conftest import SAMPLE, WARM_PYTHON, assert_trains_as, training_flags, undivided_flags
from utils.models.generator.label_tree import build_label_tree
from utils.models.generator.prompts import AnswerTokens
from utils.runs.folder import load_task
from utils.runs.inference import load_run
from utils.scoring.thresholds import Thresholds, likeliest
from utils.training.losses import MultiLabelLoss, class_weights

NAMES = ["anger", "joy", "sadness"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of the sample data with one label: `x_columns.csv` with 0/1 cells, `x_names.csv` with a column of names;
    and `x_binary.csv` with the column joy alone."""
    folder = tmp_path_factory.mktemp("one-label")
    for name in ("train", "validation"):
        rows = pd.read_csv(SAMPLE / f"{name}.csv")
        rows[["ID", "Tweet", "joy"]].to_csv(folder / f"{name}_binary.csv", index=False)
        rows = rows[rows[NAMES].sum(axis=1) == 1]
        rows[["ID", "Tweet", *NAMES]].to_csv(folder / f"{name}_columns.csv", index=False)
        rows["label"] = rows[NAMES].idxmax(axis=1)
        rows[["ID", "Tweet", "label"]].to_csv(folder / f"{name}_names.csv", index=False)
    return folder


def flags(data, kind, model, folder, **more):
    files = {f"{name}_file": data / f"{name}_{kind}.csv" for name in ("train", "validation")}
    return training_flags(model, folder, **{"num_train_epochs": 1, "bf16": False} | files | more)


@pytest.fixture(scope="module")
def single(data, tiny, made_once):
    """A classifier of texts with one label each, named in a column."""
    more = {"report": True, "num_train_epochs": 4}
    return made_once(
        "runs/single", lambda folder: run_classifier.main(flags(data, "names", tiny("roberta"), folder, **more))
    )


@pytest.fixture(scope="module")
def written(data, tiny, made_once):
    """A label generator for texts with one label each, named in a column."""
    return made_once("runs/written", lambda folder: run_sft_labels.main(flags(data, "names", tiny("qwen2"), folder)))


@pytest.fixture(scope="module")
def binary(data, tiny, made_once):
    """A classifier with a single 0/1 column."""
    more = {"report": True}
    return made_once(
        "runs/binary", lambda folder: run_classifier.main(flags(data, "binary", tiny("roberta"), folder, **more))
    )


def read_predictions(folder, labels):
    frame = pd.read_parquet(folder / "predictions" / "validation.parquet")
    return [frame[[f"{kind}/{label}" for label in labels]].to_numpy() for kind in ("truth", "probability")]


def check_scores(folder, labels=NAMES):
    """Scores of the likeliest labels are scikit-learn's; returns the results."""
    results = json.loads((folder / "all_results.json").read_text())
    truth, probabilities = read_predictions(folder, labels)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    true, given = truth.argmax(axis=1), probabilities.argmax(axis=1)
    assert results["eval_accuracy"] == pytest.approx(accuracy_score(true, given))
    expected = f1_score(true, given, average=None, labels=range(len(labels)), zero_division=0.0)
    assert results["eval_f1_macro"] == pytest.approx(expected.mean())
    assert [results[f"eval_f1/{label}"] for label in labels] == pytest.approx(expected)
    assert results["eval_accuracy_low"] <= results["eval_accuracy"] <= results["eval_accuracy_high"]
    assert not [name for name in results if "threshold" in name or "tuned" in name]
    return results


def test_classifier_is_trained_with_softmax(single):
    assert load_task(single).single_label
    check_scores(single)
    config, arguments = (json.loads((single / f"{name}.json").read_text()) for name in ("config", "run_args"))
    assert config["problem_type"] == "single_label_classification"
    assert (arguments["loss"], arguments["threshold_strategy"]) == ("cross_entropy", "argmax")
    assert json.loads((single / "thresholds.json").read_text())["thresholds"] == {}
    assert np.isnan(Thresholds.load(single, NAMES).values).all()
    page = (single / "report.html").read_text(encoding="utf-8")
    assert "likeliest label" in page
    assert "Labels taken for each other" in page
    for other in ("samples-F1", "Labels together", "threshold"):
        assert other not in page.split("Most confident mistakes")[0], other
    assert (single / "pictures" / "confusion.png").is_file()


def test_plain_pipeline_and_the_cards_snippet_give_softmax(single):
    card = (single / "README.md").read_text(encoding="utf-8")
    assert "each text has one of 3 labels" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    more = 'import json; print(json.dumps(classify("so happy for you!! #proud", top_k=None)))'
    done = subprocess.run([WARM_PYTHON, "-c", f"{snippet}\n{more}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, scores = done.stdout.strip().splitlines()
    scores = {score["label"]: score["score"] for score in json.loads(scores)}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert first.split()[0] == max(scores, key=scores.__getitem__)


def test_an_adapter_and_its_card_give_softmax(data, tiny, tmp_path):
    few = {"max_train_samples": 64, "max_eval_samples": 40, "task": "single_label"}
    run_classifier.main(flags(data, "names", tiny("qwen2"), tmp_path / "run", use_peft=True, lora_r=4, **few))
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    done = subprocess.run([WARM_PYTHON, "-c", snippet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    label, score = done.stdout.split()
    predicted = load_run(tmp_path / "run").predict(["so happy for you!! #proud"], 1).probabilities[0]
    assert predicted.sum() == pytest.approx(1)
    assert NAMES[predicted.argmax()] == label
    assert float(score) == pytest.approx(predicted.max(), abs=0.01)


def test_questions_have_one_answer_too(data, tiny, tmp_path):
    """With --ask_labels the logits of all labels' questions are one softmax."""
    few = {"max_train_samples": 64, "max_eval_samples": 40, "task": "single_label", "ask_labels": True}
    run_classifier.main(flags(data, "names", tiny("qwen2"), tmp_path / "run", **few))
    check_scores(tmp_path / "run")


def test_generator_gives_exactly_one_label(written):
    assert load_task(written).single_label
    results = check_scores(written)
    decoded = pd.read_parquet(written / "predictions" / "validation.parquet")[[f"decoded/{label}" for label in NAMES]]
    assert (decoded.to_numpy().sum(axis=1) == 1).all()
    assert results["eval_accuracy_decoded"] == pytest.approx(
        (decoded.to_numpy() == read_predictions(written, NAMES)[0]).all(axis=1).mean()
    )
    assert "fits the text below best" in json.loads((written / "generation.json").read_text())["prompt_template"]


def test_submission_prediction_and_comparison(single, written, data, tmp_path, capsys, compare):
    test = pd.read_csv(SAMPLE / "test.csv")[["ID", "Tweet"]].head(20)
    test.to_csv(tmp_path / "test.csv", index=False)
    submitted = {}
    for name, models in {"one": [single], "both": [single, written]}.items():
        make_submission.main([
            "--model", *map(str, models), "--test_file", str(tmp_path / "test.csv"),
            "--output_file", str(tmp_path / f"{name}.csv"), "--probabilities_file", str(tmp_path / f"{name}_p.csv"),
        ])  # fmt: skip
        submitted[name] = pd.read_csv(tmp_path / f"{name}.csv")
        probabilities = pd.read_csv(tmp_path / f"{name}_p.csv")[NAMES]
        assert list(submitted[name].columns) == ["ID", "label"]
        assert list(submitted[name]["label"]) == list(probabilities.idxmax(axis=1))
    said = capsys.readouterr().out
    assert "given its likeliest label" in said
    assert "(no label)" not in said
    assert "threshold" not in said

    predict.main(["--model", str(single), "--json", *test["Tweet"][:3]])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["labels"] for row in rows] == [[label] for label in submitted["one"]["label"][:3]]
    predict.main(["--model", str(single), test["Tweet"][0]])
    shown = capsys.readouterr().out
    assert shown.count("✓") == 1
    assert "threshold" not in shown

    records, table, _ = compare(single, written)
    assert len(records) == 2
    header = table.splitlines()[0]
    assert "accuracy" in header
    assert "Jaccard" not in header
    truth = test.assign(**{name: 0 for name in NAMES})
    truth["joy"] = 1
    truth[["ID", *NAMES]].to_csv(tmp_path / "truth.csv", index=False)
    records, table, _ = compare(
        single, tmp_path / "one.csv", "--truth", tmp_path / "truth.csv", "--test_file", tmp_path / "test.csv"
    )
    assert records["jaccard_tuned"].nunique() == 1  # the run and its submission
    assert records["jaccard_tuned"].iloc[0] == pytest.approx((submitted["one"]["label"] == "joy").mean())


@pytest.mark.parametrize("more", [[], ["--submission", "probabilities"], ["--probabilities_file", "p.csv"]])
def test_calibration_is_not_for_them(single, tmp_path, refused, more):
    """That is what is said, whatever else is missing."""
    words = ["--model", single, "--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv", "--calibrate"]
    for line in (
        refused(make_submission.main, *words, *more),
        refused(predict.main, "--model", single, "a text", "--calibrate"),
    ):
        assert line.startswith("error: --calibrate is for labels that stand alone")
        assert "gives each text one label: leave it out" in line


def test_doctor_and_page_know_no_thresholds(single):
    from utils.serving.predictor import Predictor
    from utils.serving.shown import answer_html

    said = json.loads((single / "doctor.json").read_text())
    assert "labels given" in json.dumps(said)
    assert "threshold" not in json.dumps(said)
    predictor = Predictor.load([str(single)])
    [answer] = predictor.predict(["so happy for you!! #proud"])
    assert answer.given.sum() == 1
    assert answer.given.argmax() == answer.probabilities.argmax()
    shown = answer_html(predictor, answer, [])
    assert "likeliest label" in shown
    assert "threshold" not in shown


def test_a_run_of_another_kind_is_refused(single, data, tiny, tmp_path, refused):
    other = tmp_path / "multi"
    run_classifier.main(flags(data, "columns", tiny("roberta"), other, task="multi_label", max_train_samples=64))
    task = load_task(other)
    assert not task.single_label
    results = json.loads((other / "all_results.json").read_text())
    assert "eval_f1_macro_tuned" in results
    assert "eval_accuracy" not in results
    common = ["--test_file", SAMPLE / "test.csv", "--output_file", tmp_path / "s.csv"]
    assert "one kind only" in refused(make_submission.main, "--model", single, other, *common)
    message = refused(make_submission.main, "--model", single, *common, "--threshold_strategy", "global")
    assert "without thresholds" in message


def test_columns_that_sum_to_one_are_the_same_task(data, tmp_path, single, tiny, capsys):
    folder = tmp_path / "run"
    run_classifier.main(flags(data, "columns", tiny("roberta"), folder, num_train_epochs=4, report=False))
    assert "one label per text, as each row has exactly one" in capsys.readouterr().err
    task = load_task(folder)
    assert task.single_label
    assert task.label_columns == NAMES
    found, expected = (json.loads((run / "all_results.json").read_text()) for run in (folder, single))
    for name in ("eval_accuracy", "eval_f1_macro", "eval_map"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    make_submission.main([
        "--model", str(folder), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / "s.csv"),
    ])  # fmt: skip
    assert (pd.read_csv(tmp_path / "s.csv")[NAMES].sum(axis=1) == 1).all()


def test_few_rows_are_no_rule(data, tiny, tmp_path, refused, capsys):
    few = {name: tmp_path / f"{name}.csv" for name in ("train", "validation")}
    for name, rows in (("train", 60), ("validation", 39)):
        pd.read_csv(data / f"{name}_names.csv").head(rows).to_csv(few[name], index=False)
    files = {f"{name}_file": path for name, path in few.items()}
    start = training_flags(tiny("roberta"), tmp_path / "run", **files, preflight_only=True)
    run_classifier.main(start)
    assert "99 rows are too few" in capsys.readouterr().err
    run_classifier.main([*start, "--task", "single_label"])
    assert "one label per text" in capsys.readouterr().err
    assert "focal is for yes and no" in refused(
        run_classifier.main, *start, "--task", "single_label", "--loss", "focal"
    )
    rows = pd.read_csv(SAMPLE / "validation.csv")
    first = int((rows[NAMES].sum(axis=1) != 1).to_numpy().argmax())
    rows[["ID", "Tweet", *NAMES]].to_csv(tmp_path / "v.csv", index=False)
    message = refused(
        run_classifier.main,
        *training_flags(
            tiny("roberta"), tmp_path / "other", train_file=data / "train_columns.csv",
            validation_file=tmp_path / "v.csv", task="single_label",
        ),
    )  # fmt: skip
    assert f"v.csv, row {first + 2} has {rows[NAMES].iloc[first].sum()} labels" in message


def test_one_label_in_all(binary, data, tmp_path, capsys, compare):
    task = load_task(binary)
    assert (task.labels, task.single_label) == (["joy"], False)
    results = json.loads((binary / "all_results.json").read_text())
    truth, probabilities = (array[:, 0] for array in read_predictions(binary, ["joy"]))
    assert results["eval_accuracy"] == pytest.approx(accuracy_score(truth, probabilities >= 0.5))
    assert results["eval_f1_macro"] == pytest.approx(f1_score(truth, probabilities >= 0.5, zero_division=0.0))
    assert results["eval_map"] == pytest.approx(average_precision_score(truth, probabilities))
    assert 0 < results["eval_threshold/joy"] < 1
    assert "each text has one label or not" in (binary / "README.md").read_text(encoding="utf-8")
    assert "accuracy" in (binary / "report.html").read_text(encoding="utf-8")
    make_submission.main([
        "--model", str(binary), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / "s.csv"),
    ])  # fmt: skip
    assert list(pd.read_csv(tmp_path / "s.csv").columns) == ["ID", "joy"]
    predict.main(["--model", str(binary), "so happy for you"])
    assert "threshold" in capsys.readouterr().out
    labels = pd.read_csv(SAMPLE / "test_labels.csv")[["ID", "joy"]]
    labels.to_csv(tmp_path / "truth.csv", index=False)
    _, table, _ = compare(tmp_path / "s.csv", "--truth", tmp_path / "truth.csv")
    assert "accuracy" in table.splitlines()[0]


def test_generator_with_one_label_in_all(data, tiny, tmp_path):
    folder = tmp_path / "run"
    few = {"max_train_samples": 64, "max_eval_samples": 40}
    run_sft_labels.main(flags(data, "binary", tiny("qwen2"), folder, **few))
    results = json.loads((folder / "all_results.json").read_text())
    assert {"eval_accuracy", "eval_accuracy_tuned", "eval_accuracy_decoded"} <= set(results)
    assert load_task(folder).labels == ["joy"]


def test_one_label_that_never_changes_is_refused(data, tiny, tmp_path, refused):
    rows = pd.read_csv(data / "train_binary.csv").assign(joy=1)
    rows.to_csv(tmp_path / "train.csv", index=False)
    message = refused(
        run_classifier.main,
        *training_flags(tiny("roberta"), tmp_path / "run", train_file=tmp_path / "train.csv", validation_file=None),
    )
    assert "there is nothing to learn" in message


def test_cross_entropy_is_torchs_however_it_is_cut():
    generator = torch.Generator().manual_seed(0)
    logits, numbers = torch.randn(12, 5, generator=generator), torch.randint(5, (12,), generator=generator)
    labels = torch.nn.functional.one_hot(numbers, 5)
    weights = torch.tensor(class_weights(labels.numpy(), "sqrt", 20), dtype=torch.float32)
    assert (labels.float() @ weights).mean() == pytest.approx(1)
    loss = MultiLabelLoss("cross_entropy", weights, 0, 0, 0, 0)

    def of(rows, cells=None):
        return loss(type("Outputs", (), {"logits": logits[rows]}), labels[rows], cells)

    each = torch.nn.functional.cross_entropy(logits, numbers, weights, reduction="none")
    assert of(slice(None)) == pytest.approx(each.mean().item())
    parts = [of(slice(0, 2), 60), of(slice(2, 7), 60), of(slice(7, 12), 60)]  # 12 rows of 5 cells in all
    assert sum(parts) == pytest.approx(each.mean().item())


@pytest.fixture(scope="module")
def undivided_single(data, model_without_dropout, made_once):
    files = {f"{name}_file": data / f"{name}_names.csv" for name in ("train", "validation")}
    return made_once(
        "runs/undivided-single",
        lambda folder: run_classifier.main(undivided_flags(model_without_dropout, folder, 8, **files)),
    )


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "processes"), [(2, 4, 1), pytest.param(2, 2, 2, marks=pytest.mark.processes)]
)
def test_training_does_not_depend_on_how_batches_are_cut(
    undivided_single, data, model_without_dropout, tmp_path, micro_batch, accumulation, processes
):
    files = {f"{name}_file": data / f"{name}_names.csv" for name in ("train", "validation")}
    flags = undivided_flags(model_without_dropout, tmp_path / "run", micro_batch, accumulation, **files)
    assert_trains_as(undivided_single, tmp_path / "run", flags, processes)


def test_the_tree_of_single_labels_holds_each_once():
    """Also where one label begins another."""
    words = [[1, 2], [1, 2, 3], [1, 4], [5]]
    tree = build_label_tree(AnswerTokens(words, [[8, *word] for word in words], [7], 9, single_label=True))
    found = []

    def go(node):
        for decision in tree.nodes[node].decisions:
            for target, labels in zip(decision.targets, decision.gained):
                found.extend(labels)
                if target >= 0:
                    go(target)

    go(tree.root)
    assert sorted(found) == [0, 1, 2, 3]
    assert tree.reachable[tree.root].all()


def test_probabilities_of_single_labels_are_those_of_all_answers(tiny):
    """Against a brute-force run of every answer; with too few nodes what is left is shared out, so that all is 1."""
    from transformers import AutoTokenizer

    from utils.core.arguments import GeneratorModelArguments
    from utils.models.generator.answering import Generation, build_format
    from utils.models.generator.loading import load_generator
    from utils.models.generator.prompts import ONE_LABEL_TEMPLATE, text_ids
    from utils.models.generator.search import score_labels

    labels = ["anger", "anticipation", "joy", "joyful", "love"]
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))
    model = load_generator(GeneratorModelArguments(model_name_or_path=tiny("qwen2"), dtype="float32"), tokenizer).eval()
    generation = Generation(ONE_LABEL_TEMPLATE, labels, "none", "constrained", 1.0, 100)
    form = build_format(generation, labels, tokenizer, 400, single_label=True)
    texts = text_ids(["so happy", "not again..."], tokenizer)
    search = (model, form.tree, form.prompt, texts, tokenizer.pad_token_id, 2)
    found = score_labels(*search, 1.0, 100).probabilities
    answers = [[*word, form.answers.end] for word in form.answers.first]
    for text, probabilities in zip(texts, found):
        prompt = form.prompt.head + text + form.prompt.tail
        for answer, probability in zip(answers, probabilities):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0].double()
            mass = 1.0
            for i, token in enumerate(answer):
                valid = sorted({other[i] for other in answers if other[:i] == answer[:i] and len(other) > i})
                mass *= logits[len(prompt) - 1 + i][valid].softmax(0)[valid.index(token)].item()
            assert probability == pytest.approx(mass, abs=1e-5)
    for coverage, nodes in itertools.product((0.0, 0.5), (1, 2)):
        assert score_labels(*search, coverage, nodes).probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_the_first_of_equal_probabilities_is_the_likeliest():
    assert likeliest(np.array([[0.2, 0.4, 0.4], [0.5, 0.3, 0.2]])).tolist() == [[0, 1, 0], [1, 0, 0]]
