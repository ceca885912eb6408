"""One question per label: the same logits as label by label, with descriptions, for labels that were never trained."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import make_submission
import predict
import run_classifier
from conftest import SAMPLE, training_flags
from finished_runs import load_predictions
from utils.data.tables import read_table
from utils.models.questions import Questions, ask_labels
from utils.runs.inference import load_run, predict_table

TEXTS = ["so happy today #blessed with everyone around me", "no"]
LABELS = ["joy", "deep anger", "sadness at night", "love"]
TEMPLATE = "{label}?"


def model_of_one_logit(folder, attention="sdpa"):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, attn_implementation=attention)
    model.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    return model.eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["roberta", "qwen2", "qwen3"])
def test_all_labels_in_one_pass_are_as_label_by_label(tiny, kind, attention):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny(kind)), model_of_one_logit(tiny(kind), attention)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)

    def logits_of(labels, at_once=64, **inputs):
        ask_labels(model, tokenizer, Questions(TEMPLATE, {}, at_once), labels)
        with torch.no_grad():
            return model(**(inputs or batch)).logits

    together = logits_of(LABELS)
    assert together.std() > 1e-3
    single = torch.cat([logits_of([label]) for label in LABELS], dim=1)
    assert torch.allclose(together, single, atol=1e-5)
    assert torch.allclose(together, logits_of(LABELS, at_once=3), atol=1e-5)
    alone = tokenizer(TEXTS[1:], return_tensors="pt")["input_ids"]  # without padding, without a mask
    assert torch.allclose(together[1:], logits_of(LABELS, input_ids=alone), atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_decoder_answers_as_plain_transformers_do_with_the_question_behind_the_text(tiny, kind):
    tokenizer, model, plain = AutoTokenizer.from_pretrained(tiny(kind)), *(model_of_one_logit(tiny(kind)) for _ in "ab")
    ask_labels(model, tokenizer, Questions(TEMPLATE, {}, 64), LABELS)
    plain.score.weight = model.score.weight
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            together = model(input_ids=torch.tensor([ids])).logits[0]
            for label, logit in zip(LABELS, together):
                question = tokenizer(f"{label}?", add_special_tokens=False)["input_ids"]
                assert torch.allclose(plain(input_ids=torch.tensor([ids + question])).logits[0], logit, atol=1e-5)


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory):
    file = tmp_path_factory.mktemp("descriptions") / "labels.yaml"
    file.write_text("joy: is the writer happy\nanger: is the writer angry\n")
    return file


@pytest.fixture(scope="module")
def asked(tiny, made_once, descriptions):
    """A finished run of tiny RoBERTa that is asked for its labels, with LoRA."""
    flags = {"ask_labels": True, "label_descriptions": descriptions, "max_train_samples": 96, "bf16": False}
    flags |= {"use_peft": True, "labels_at_once": 7}
    return made_once("runs/asked", lambda folder: run_classifier.main(training_flags(tiny("roberta"), folder, **flags)))


def test_a_run_that_is_asked_predicts_as_it_was_trained(asked, tmp_path):
    run = load_run(asked)
    assert run.questions.words("joy") == "is the writer happy?"
    assert run.questions.words("love") == "love?"
    again = predict_table(run, read_table(SAMPLE / "validation.csv"), 16).probabilities
    saved = load_predictions(asked, run.task.labels).filter(like="probability").to_numpy()
    assert np.abs(again - saved).max() < 1e-5
    assert json.loads((asked / "all_results.json").read_text())["unchanged_tensors"] == 0
    assert "asked one short question for each label" in (asked / "README.md").read_text()

    make_submission.main(
        ["--model", str(asked), "--test_file", str(SAMPLE / "test.csv"), "--output_file", str(tmp_path / "s.csv")]
    )
    assert list(pd.read_csv(tmp_path / "s.csv").columns[1:]) == run.task.labels


def test_labels_that_were_never_trained(asked, capsys):
    predict.main(["--model", str(asked), "--json", "--labels", "pride", "joy", "--", *TEXTS])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row["probabilities"]) for row in rows] == [["pride", "joy"]] * 2
    predict.main(["--model", str(asked), "--json", *TEXTS])
    own = [json.loads(line)["probabilities"]["joy"] for line in capsys.readouterr().out.splitlines()]
    assert own == pytest.approx([row["probabilities"]["joy"] for row in rows], abs=2e-6)


def test_the_head_can_start_from_yes_and_no(tiny, tmp_path):
    flags = training_flags(
        tiny("qwen3"), tmp_path / "run", ask_labels=True, question_head="yes_no", max_train_samples=32, bf16=False,
        question="\n{label}? yes or no:", learning_rate=0, num_train_epochs=1,
    )  # fmt: skip
    run_classifier.main(flags)
    run = load_run(tmp_path / "run")
    language_model = AutoModelForCausalLM.from_pretrained(tiny("qwen3")).eval()
    yes, no = (run.tokenizer(word)["input_ids"][0] for word in (" yes", " no"))
    ids = run.tokenizer(TEXTS[0] + "\njoy? yes or no:")["input_ids"]
    with torch.no_grad():
        answer = language_model(input_ids=torch.tensor([ids])).logits[0, -1]
    probabilities = run.predict(TEXTS[:1], 1).probabilities
    expected = torch.sigmoid(answer[yes] - answer[no]).item()
    assert probabilities[0, run.task.labels.index("joy")] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_asked_is_refused(tiny, trained, tmp_path, refused, descriptions):
    flags = training_flags(tiny("roberta"), tmp_path / "no", ask_labels=True, max_train_samples=64)
    assert "leave --pooling out" in refused(run_classifier.main, *flags, "--pooling", "mean")
    assert "must hold {label}" in refused(run_classifier.main, *flags, "--question", "which?")
    assert "writes no answers" in refused(run_classifier.main, *flags, "--question_head", "yes_no")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("envy: is the writer envious\n")
    assert "describes envy" in refused(run_classifier.main, *flags, "--label_descriptions", wrong)
    assert "no such file" in refused(run_classifier.main, *flags, "--label_descriptions", tmp_path / "none").lower()
    flags = training_flags(tiny("roberta"), tmp_path / "no", max_train_samples=64)
    assert "is for --ask_labels" in refused(run_classifier.main, *flags, "--question", "{label}!")
    assert "--labels is for runs" in refused(predict.main, "--model", trained, "--labels", "envy", "a text")
    assert not (tmp_path / "no").exists()
