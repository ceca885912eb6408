"""Probabilities of a label generator against brute force, its answers against `generate` held to valid answers."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from conftest import SAMPLE
from utils.core.arguments import GeneratorModelArguments
from utils.core.errors import UserError
from utils.models.generator.answering import Generation, answer_texts, build_format
from utils.models.generator.label_tree import END, ON, build_label_tree
from utils.models.generator.loading import load_generator
from utils.models.generator.prompts import DEFAULT_TEMPLATE, AnswerTokens, text_ids
from utils.models.generator.search import _BatchSearch, check_scorable, score_labels

LABELS = ["anger", "anticipation", "joy", "joyful", "love"]  # one begins another


@pytest.fixture(scope="module")
def setting(tiny):
    """`(model, generator, token ids of texts)` for a kind of tiny model and a number of labels; the random weights are
    made larger, so that the model has opinions."""
    made = {}

    def get(kind, size, attention="sdpa"):
        if (kind, size, attention) not in made:
            tokenizer = AutoTokenizer.from_pretrained(tiny(kind))
            arguments = GeneratorModelArguments(
                model_name_or_path=tiny(kind), dtype="float32", attn_implementation=attention
            )
            model = load_generator(arguments, tokenizer).eval()
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.data.mul_(3)
            template = "{{ text }}\n" if kind == "roberta" else DEFAULT_TEMPLATE  # tiny RoBERTa takes 128 tokens
            generation = Generation(template, LABELS[:size], "none", "constrained", 1.0, 10**6)
            generator = build_format(generation, LABELS[:size], tokenizer, 128 if kind == "roberta" else 400)
            texts = text_ids(list(pd.read_csv(SAMPLE / "test.csv")["Tweet"][:12]), tokenizer)
            made[kind, size, attention] = model, generator, texts
        return made[kind, size, attention]

    return get


def score(setting_, coverage=1.0, max_nodes=10**6, batch_size=5):
    model, generator, texts = setting_
    pad_id = generator.tokenizer.pad_token_id
    return score_labels(model, generator.tree, generator.prompt, texts, pad_id, batch_size, coverage, max_nodes)


def all_answers(answers):
    size = len(answers.first)
    rows = [np.array(row) for row in itertools.product([0, 1], repeat=size)]
    return [(row, answers.write(row)) for row in rows]


def brute_force(model, generator, text):
    """`(mass of each answer, probabilities of the labels)`, running every answer through the model by itself."""
    prompt = generator.prompt.head + text + generator.prompt.tail
    answers = all_answers(generator.answers)
    masses = []
    for _, ids in answers:
        with torch.no_grad():
            input_ids = torch.tensor([prompt + ids])
            logits = model(input_ids).logits[0].double()
        mass = 1.0
        for i, token in enumerate(ids):
            valid = sorted({other[i] for _, other in answers if other[:i] == ids[:i] and len(other) > i})
            probabilities = logits[len(prompt) - 1 + i][valid].softmax(0)
            mass *= probabilities[valid.index(token)].item()
        masses.append(mass)
    return np.array(masses), sum(mass * row for mass, (row, _) in zip(masses, answers))


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "roberta"])
def test_exact_probabilities_equal_brute_force(setting, kind, size):
    model, generator, texts = setting(kind, size)
    scores = score((model, generator, texts))
    assert np.abs(scores.covered - 1).max() < 1e-5
    for text, probabilities in list(zip(texts, scores.probabilities))[:4]:
        masses, expected = brute_force(model, generator, text)
        assert abs(masses.sum() - 1) < 1e-5
        assert np.abs(probabilities - expected).max() < 1e-5
    assert scores.probabilities.std(axis=0).max() > 0.01  # the texts matter


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "roberta"])
def test_coverage_bounds_the_error(setting, kind):
    exact = score(setting(kind, 5))
    for coverage in (0.5, 0.9, 0.99):
        scores = score(setting(kind, 5), coverage)
        assert scores.covered.min() >= coverage
        # What was not reached is estimated: it adds no more than its mass, and what is certain there is never left out.
        error = np.abs(exact.probabilities - scores.probabilities)
        assert (error.max(axis=1) <= 1 - scores.covered + 1e-6).all()
        assert (scores.decoded == exact.decoded).all()


def test_the_estimate_of_what_was_not_reached_is_better_than_none(setting, monkeypatch):
    exact = score(setting("qwen3", 5)).probabilities
    estimated = np.abs(score(setting("qwen3", 5), 0.8).probabilities - exact)
    monkeypatch.setattr(_BatchSearch, "_rates", lambda search: np.zeros((len(search.covered), 5)))
    left_out = np.abs(score(setting("qwen3", 5), 0.8).probabilities - exact)
    assert estimated.mean() < 0.75 * left_out.mean()


def test_node_budget(setting):
    model, generator, texts = setting("qwen3", 5)
    narrow, wide = (score((model, generator, texts), 1.0, nodes) for nodes in (2, 6))
    assert narrow.covered.max() < 1
    assert (wide.covered >= narrow.covered - 1e-6).all()
    assert (narrow.decoded == wide.decoded).all()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])  # generate counts RoBERTa's positions otherwise than training
def test_constrained_greedy_equals_generate(setting, kind):
    model, generator, texts = setting(kind, 5)
    answers = [ids for _, ids in all_answers(generator.answers)]
    decoded = score((model, generator, texts), coverage=0).decoded
    assert len({tuple(row) for row in decoded}) > 1
    for text, row in zip(texts, decoded):
        prompt = generator.prompt.head + text + generator.prompt.tail

        def valid(_, ids, prompt=prompt):
            so_far = ids[len(prompt) :].tolist()
            return sorted({a[len(so_far)] for a in answers if a[: len(so_far)] == so_far and len(a) > len(so_far)})

        output = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=int), max_new_tokens=60,
            do_sample=False, prefix_allowed_tokens_fn=valid, eos_token_id=generator.prompt.end, pad_token_id=0,
        )  # fmt: skip
        assert output[0, len(prompt) :].tolist() == generator.answers.write(row)


def test_batches_and_attention_do_not_matter(setting):
    expected = score(setting("qwen3", 5), batch_size=1)
    for attention, batch_size in (("sdpa", 3), ("sdpa", 12), ("eager", 12)):
        scores = score(setting("qwen3", 5, attention), batch_size=batch_size)
        assert np.abs(scores.probabilities - expected.probabilities).max() < 1e-5
        assert (scores.decoded == expected.decoded).all()


def test_predictions_are_in_the_order_of_rows_and_labels(setting):
    model, generator, texts = setting("qwen2", 5)
    expected = score((model, generator, texts))
    generation = Generation(DEFAULT_TEMPLATE, LABELS, "none", "constrained", 1.0, 10**6)
    labels = LABELS[::-1]
    other = build_format(generation, labels, generator.tokenizer, 400)
    predictions = answer_texts(model, other, texts, 4, torch.float32)
    assert np.abs(predictions.probabilities[:, ::-1] - expected.probabilities).max() < 1e-5
    assert (predictions.decoded[:, ::-1] == expected.decoded).all()


def test_model_is_left_as_it_was(setting):
    model, generator, texts = setting("qwen2", 4)
    head, vocabulary = model.get_output_embeddings(), model.config.vocab_size
    score((model, generator, texts))
    assert model.get_output_embeddings() is head
    assert model(torch.tensor([[5, 6]])).logits.shape[-1] == vocabulary


def walk(tree, answers):
    """Every answer that the tree allows: its token ids and its labels."""
    found = []

    def go(node, ids, labels):
        ids = ids + tree.nodes[node].tokens
        base = len(ids) - len(tree.nodes[node].tokens)
        for decision in tree.nodes[node].decisions:
            before = ids[: base + decision.position + 1]
            for column, target, gained in zip(decision.columns, decision.targets, decision.gained):
                if target == END:
                    found.append((before + [tree.token_ids[column]], labels + gained))
                elif target == ON:
                    after = labels + gained
                else:
                    go(target, before, labels + gained)
            if ON in decision.targets:
                labels = after

    go(tree.root, [], ())
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_tree_holds_every_answer_once(data):
    """With labels of any token ids, also ones that begin others."""
    size = data.draw(st.integers(2, 5))
    part = st.lists(st.integers(1, 3), min_size=1, max_size=3)
    words = data.draw(st.lists(part, min_size=size + 1, max_size=size + 1, unique_by=tuple))
    comma, end = 8, 9
    answers = AnswerTokens(words[:-1], [[comma, *word] for word in words[:-1]], words[-1], end)
    found = walk(build_label_tree(answers), answers)
    expected = {tuple(np.flatnonzero(row)): ids for row, ids in all_answers(answers)}
    assert sorted(labels for _, labels in found) == sorted(expected)
    for ids, labels in found:
        # Where the rest is forced, the tree stops early.
        assert expected[labels][: len(ids)] == ids


def test_labels_that_tokens_do_not_tell_apart():
    with pytest.raises(UserError, match="same tokens"):
        build_label_tree(AnswerTokens([[1], [1]], [[8, 1], [8, 1]], [2], 9))
    with pytest.raises(UserError, match="beginning of another"):  # "1 8 2" is one label, or two
        build_label_tree(AnswerTokens([[1], [2], [1, 8, 2]], [[8, 1], [8, 2], [8, 1, 8, 2]], [3], 9))


def test_attention_that_cannot_be_scored(setting):
    model, _, _ = setting("qwen2", 4)
    model.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(UserError, match="flash_attention_2"):
            check_scorable(model, "constrained", 256)
    finally:
        model.config._attn_implementation = "sdpa"
    roberta, _, _ = setting("roberta", 4)
    check_scorable(roberta, "constrained", 128)
    with pytest.raises(UserError, match="--decoding free"):
        check_scorable(roberta, "free", 128)


def tiny_of(name, **options):
    import transformers

    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(**shape, **options)
    return transformers.AutoModelForCausalLM.from_config(config)


def test_models_that_place_tokens_by_themselves_or_do_not_look_back_far_enough():
    with pytest.raises(UserError, match="place tokens by themselves"):
        check_scorable(tiny_of("Bloom"), "constrained", 256)
    mistral = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
    with pytest.raises(UserError, match="looks back 64 tokens only"):
        check_scorable(tiny_of("Mistral", sliding_window=64, **mistral), "constrained", 256)
    check_scorable(tiny_of("Mistral", sliding_window=256, **mistral), "constrained", 256)


def test_prompt_with_nothing_before_the_text(setting):
    model, generator, texts = setting("qwen2", 4)
    generation = Generation("{{ text }}\n", LABELS[:4], "none", "constrained", 1.0, 10**6)
    short = build_format(generation, LABELS[:4], generator.tokenizer, 400)
    assert short.prompt.head == []
    scores = score((model, short, texts))
    _, expected = brute_force(model, short, texts[0])
    assert np.abs(scores.probabilities[0] - expected).max() < 1e-5
