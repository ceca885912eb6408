"""Findings about rows: training against validation, and against rows that are predicted."""

from dataclasses import asdict

import numpy as np
import pytest

from utils.doctor.bars import ratio_interval
from utils.doctor.drift import NewRows, Reference, compare, drift_text
from utils.doctor.rows import (
    check_cut,
    check_label_sets,
    check_leaks,
    check_rates,
    check_texts,
    check_unknown,
    compare_texts,
)
from utils.doctor.texts import TextFigures, find_unknown, script_of, triples

ENGLISH = [
    "the train was late again and nobody told us why, what a morning",
    "so happy for you and your family, that is the best news this week",
    "i can not believe they cancelled the concert an hour before it began",
    "there is nothing better than the smell of bread in the morning",
    "why does the heating always break on the coldest day of the year",
]
SPANISH = [
    "no puedo creer que hoy llueva otra vez, qué tristeza más grande",
    "estoy muy contento con el resultado del partido de ayer por la noche",
    "por qué siempre me pasa lo mismo en el trabajo los lunes",
    "mañana será un día mejor, eso espero de verdad para todos",
]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    """One that knows the letters and signs of the sample data only, as BERT knows those of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyzáéíóúñü.,!?'#😂"
    vocabulary = {piece: i for i, piece in enumerate(["[UNK]", "[PAD]", *letters, *(f"##{sign}" for sign in letters)])}
    rules = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    rules.normalizer, rules.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="[UNK]", pad_token="[PAD]")


def figures(texts, tokenizer, reference=None):
    return TextFigures.of(texts, tokenizer, reference and reference.profile)


def test_unknown_signs(tokenizer):
    texts = ["so funny 😂", "great🙏 news 🙏", "fine 🦦 and 🙏", "", "x" * 101]
    unknown = find_unknown(texts, tokenizer)
    assert unknown.rows.tolist() == [1, 2, 4]
    assert unknown.signs == {"🙏": 2, "🦦": 1}
    assert unknown.describe() == "🙏 in 2, 🦦 in 1"
    only_long = find_unknown(texts[-1:], tokenizer)
    assert only_long.describe() == "words that are too long for it"


def test_tokenizers_that_split_into_bytes_know_all_signs(tiny):
    from utils.models.loading import load_tokenizer

    unknown = find_unknown(["🦦 жук"], load_tokenizer(tiny("qwen3")))
    assert len(unknown.rows) == 0


def test_scripts_and_triples():
    assert [script_of(text) for text in ("hello 😂", "привет hi", "你好", "1234 😂")] == [
        "LATIN",
        "CYRILLIC",
        "CJK",
        "",
    ]
    assert triples("Ab-c") == {" ab": 1, "ab ": 1, "b c": 1, " c ": 1}


def test_texts_like_those_of_the_training(tokenizer):
    train = figures(ENGLISH * 40, tokenizer)
    assert check_texts(train, figures(ENGLISH * 10, tokenizer, train)).findings == []
    assert TextFigures.from_json(asdict(train)) == train


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (SPANISH * 20, "languages_differ"),
        (["привет как дела сегодня утром"] * 30, "scripts_differ"),
        ([f"{a}. {b}. {c}" for a, b, c in zip(ENGLISH, ENGLISH[1:], ENGLISH[2:])] * 20, "lengths_differ"),
        ([f"{text} 🦦" for text in ENGLISH * 10], "unknown_tokens_differ"),
    ],
)
def test_texts_unlike_those_of_the_training(tokenizer, texts, kind):
    train = figures(ENGLISH * 40, tokenizer)
    found = compare_texts(train, figures(texts, tokenizer, train), "in training", "here")
    assert kind in found
    assert set(found) <= {kind, "unknown_tokens_differ", "lengths_differ"}
    assert (
        compare_texts(train, figures(texts[:1], tokenizer, train), "in training", "here") == {}
    )  # one text says nothing


def test_rates_of_labels():
    labels = ["anger", "joy"]
    rows = np.array([100, 100])
    train, same, other = (np.array([300, 400]), 10 * rows), (np.array([33, 38]), rows), (np.array([30, 90]), rows)
    assert not check_rates(labels, train, same).findings
    [finding] = check_rates(labels, train, other).findings
    assert finding.labels == ["joy"]
    assert "joy 40 % in training, 90 % in validation" in finding.what


def test_leaks():
    right = np.r_[np.ones(50), np.zeros(150)]
    leaked = np.arange(200) < 50
    [finding] = check_leaks(leaked, 50, 200, right).findings
    assert (finding.kind, finding.severity) == ("leaks", "problem")
    assert "50 of 200 validation rows have a near-duplicate in training (25 %)" in finding.what
    assert "Jaccard is 1.000 ± 0.000 on these and 0.000 ± 0.000 on the others" in finding.what
    assert check_leaks(None, 1, 200, right).findings == ()


def test_texts_cut():
    lengths = np.full(100, 20)
    full = np.r_[np.full(60, 20), np.full(40, 40)]
    [finding] = check_cut(np.minimum(lengths, full), full, 20).findings
    assert (
        "40 of 100 training texts are longer than 20 tokens (40 %): the model does not see 50 % of their"
        in finding.what
    )
    assert "raise --max_length: 40 holds 99 %" in finding.remedy
    assert check_cut(lengths, np.r_[np.full(99, 20), 40], 20).findings == ()


def test_unknown_tokens_are_a_finding_where_they_harm(tokenizer):
    train = figures([*ENGLISH * 20, *["🦦 day"] * 40], tokenizer)
    unknown = np.arange(100) < 40
    harmed = np.where(unknown, 0.2, 0.7) + np.random.default_rng(0).normal(size=100) * 0.1
    [finding] = check_unknown(train, "🦦 in 40", unknown, harmed).findings
    assert "40 of 140 training texts hold tokens that the model does not know (🦦 in 40), 29 %" in finding.what
    assert check_unknown(train, "🦦 in 40", unknown, np.full(100, 0.5)).findings == ()
    most = figures([*ENGLISH, *["🦦 day"] * 40], tokenizer)
    assert len(check_unknown(most, "🦦 in 40", unknown, np.full(100, 0.5)).findings) == 1


def reference(tokenizer, **changed):
    values = {"labels": ["anger", "joy"], "rows": 200, "given": np.array([80, 60])}
    values |= {"train_positives": np.array([300, 250]), "train_annotated": np.array([1000, 900])}
    values |= {"texts": figures(ENGLISH * 40, tokenizer)}
    return Reference(**values | changed)


def new_rows(texts, given, chunks=3):
    """Rows that are predicted in chunks, the first so many of each label with it."""
    predictions = np.column_stack([np.arange(len(texts)) < count for count in given]).astype(np.int8)
    new = NewRows(len(texts))
    for part in np.array_split(np.arange(len(texts)), chunks):
        new.add([texts[i] for i in part], predictions[part])
    return new


def test_new_rows_like_those_of_the_run(tokenizer):
    new = new_rows(ENGLISH * 30, (60, 45))
    assert (new.rows, new.given.tolist()) == (150, [60, 45])
    assert compare(reference(tokenizer), new, tokenizer) == []
    assert drift_text([], 150) == "The doctor looked at these 150 rows: like those of the training."


def test_new_rows_with_other_rates(tokenizer):
    [finding] = compare(reference(tokenizer), new_rows(ENGLISH * 30, (60, 130)), tokenizer)
    assert (finding.kind, finding.labels) == ("rates_far_from_validation", ["joy"])
    assert "joy to 87 % of these rows, 30 % of the validation rows" in finding.what
    too_free = reference(tokenizer, given=np.array([80, 190]), train_positives=np.array([300, 100]))
    [finding] = compare(too_free, new_rows(ENGLISH * 30, (60, 140)), tokenizer)
    assert (finding.kind, finding.labels) == ("rates_far_from_training", ["joy"])
    assert compare(reference(tokenizer), new_rows(ENGLISH[:3], (3, 3)), tokenizer) == []  # too few rows to say


def test_new_rows_in_another_language(tokenizer):
    findings = compare(reference(tokenizer), new_rows(SPANISH * 40, (64, 48)), tokenizer)
    assert "languages_differ" in {finding.kind for finding in findings}
    text = drift_text(findings, 160)
    assert text.startswith("The doctor looked at these 160 rows: ")
    assert "What to do: check that it is the right file and the right column of texts" in text


def test_texts_are_kept_from_all_parts_of_a_long_file():
    new = NewRows(expected=20_000)
    for start in range(0, 20_000, 3000):
        rows = range(start, min(start + 3000, 20_000))
        new.add([str(i) for i in rows], np.zeros((len(rows), 2), dtype=np.int8))
    assert [int(text) for text in new.texts] == list(range(0, 20_000, 4))


def test_rates_of_few_rows_that_were_drawn_by_label():
    """The interval of the ratio tells what two intervals that overlap do not."""
    rows = {"joy": (179, 45), "fear": (82, 6), "anger": (172, 14)}
    train, validation = zip(*rows.values())
    check = check_rates(list(rows), (np.array(train), np.full(3, 520)), (np.array(validation), np.full(3, 67)))
    assert check.findings[0].labels == ["joy"]
    low, high = ratio_interval((45, 67), (179, 520), 0.99)
    assert low < (45 / 67) / (179 / 520) < high
    inverse = ratio_interval((179, 520), (45, 67), 0.99)
    assert inverse == pytest.approx((1 / high, 1 / low))
    assert ratio_interval((4, 10), (100, 1000)) == (0.0, np.inf)


def test_ratio_intervals_cover_the_ratio():
    rng = np.random.default_rng(0)
    here, there = rng.binomial(60, 0.4, 4000), rng.binomial(500, 0.3, 4000)
    covered = [low <= 4 / 3 <= high for low, high in (ratio_interval((a, 60), (b, 500)) for a, b in zip(here, there))]
    assert 0.98 < np.mean(covered) <= 1


def label_sets(rng, rows):
    """Six labels of which some go together."""
    kind = rng.integers(3, size=rows)
    rates = np.array([[0.8, 0.6, 0.3, 0, 0, 0.1], [0, 0, 0, 0.8, 0.5, 0], [0, 0.1, 0, 0, 0.1, 0.9]])[kind]
    return (rng.random((rows, 6)) < rates).astype(np.int8)


def test_labels_that_come_together_in_validation_alone():
    wrong, named = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        train, validation = label_sets(rng, 500), label_sets(rng, 124)
        wrong += check_label_sets(np.arange(500), train, validation).findings
        turned = np.where(rng.random(validation.shape) < 0.1, 1 - validation, validation)
        named += [one.kind for one in check_label_sets(np.arange(500), train, turned).findings] == ["mislabelled"]
    assert len(wrong) <= 1
    assert named >= 38
    # Rows of a label that was never seen are another finding, and unknown cells say nothing.
    never = validation.copy()
    train[:, 0], never[:, 0] = 0, 1
    assert check_label_sets(np.arange(500), train, never).findings == ()
    assert check_label_sets(np.arange(500), train, np.where(turned == 1, np.nan, 0.0)).findings == ()


def test_copies_of_a_training_row_count_once():
    rng = np.random.default_rng(3)
    train, validation = label_sets(rng, 60), label_sets(rng, 300)
    texts = np.arange(60)
    seen = check_label_sets(texts, train, validation)
    copied = check_label_sets(np.tile(texts, 5), np.tile(train, (5, 1)), validation)
    assert (copied.seen, copied.findings) == (seen.seen, seen.findings)
