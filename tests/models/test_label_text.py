"""Sets of labels as text, as tokens, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from utils.core.errors import UserError
from utils.data.examples import Examples
from utils.models.generator.label_text import LabelText, choose_label_text
from utils.models.generator.label_tree import build_label_tree
from utils.models.generator.prompts import (
    DEFAULT_TEMPLATE,
    answer_tokens,
    build_prompt,
    encode_conversations,
    text_budget,
    text_ids,
)

LABELS = ["anger", "joy", "joyful", "no label", "love, actually", "self-doubt"]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12).filter(
    lambda name: name == name.strip()
)


@given(st.data())
def test_every_label_set_reads_back(data):
    names = data.draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
    order = data.draw(st.sampled_from(["columns", "frequent_first", "rare_first"]))
    counts = data.draw(st.lists(st.integers(0, 9), min_size=len(names), max_size=len(names)))
    label_text = choose_label_text(names, order, counts)
    assert sorted(label_text.order) == sorted(names)
    row = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names))))
    back, unknown = label_text.read(label_text.write(row))
    assert back.tolist() == row.tolist()
    assert unknown == []


def test_orders():
    assert choose_label_text(["a", "b", "c"], "columns", [5, 9, 1]).order == ["a", "b", "c"]
    assert choose_label_text(["a", "b", "c"], "frequent_first", [5, 9, 1]).order == ["b", "a", "c"]
    assert choose_label_text(["a", "b", "c"], "rare_first", [5, 9, 1]).order == ["c", "a", "b"]
    label_text = choose_label_text(["a", "b", "c"], "rare_first", [5, 9, 1])
    assert label_text.write([1, 0, 1]) == "c, a"
    assert label_text.write([0, 0, 0]) == "none"


def test_free_answers_are_read_tolerantly():
    label_text = LabelText(["joy", "Love", "self-doubt"], ["joy", "Love", "self-doubt"], "none")
    row, unknown = label_text.read(' LOVE,joy , "Self-Doubt".\nhappiness, joy, none')
    assert row.tolist() == [1, 1, 1]
    assert unknown == ["happiness"]
    row, unknown = label_text.read("None.")
    assert (row.tolist(), unknown) == ([0, 0, 0], [])


def test_names_that_cannot_be_written():
    for name in ("line\nbreak", " blank", "blank "):
        with pytest.raises(UserError, match="cannot be written"):
            choose_label_text(["a", name], "columns", [1, 1])
    assert choose_label_text(["none", "No label"], "columns", [1, 1]).none == "nothing"
    with pytest.raises(UserError, match="no word is left"):
        choose_label_text(["none", "no label", "nothing", "no label fits"], "columns", [1] * 4)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "roberta"])
def test_prompt_and_answer_tokens(tiny, kind):
    tokenizer = AutoTokenizer.from_pretrained(tiny(kind))
    label_text = choose_label_text(LABELS, "columns", [1] * len(LABELS))
    prompt = build_prompt(DEFAULT_TEMPLATE, label_text, tokenizer)
    answers = answer_tokens(label_text, tokenizer, prompt.end)
    assert prompt.end == tokenizer.eos_token_id
    whole = tokenizer.decode(prompt.head) + "so happy" + tokenizer.decode(prompt.tail)
    if kind == "qwen3":  # the think block belongs to the prompt
        assert whole.startswith("<|im_start|>user\nWhich of these")
        assert whole.endswith("so happy<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    else:
        assert whole.startswith("<s>Which of these" if kind == "roberta" else "Which of these")
        assert whole.endswith("so happy\n\nLabels:\n")
    written = set()
    for bits in range(2 ** len(LABELS)):
        row = np.array([bits >> i & 1 for i in range(len(LABELS))])
        ids = answers.write(row)
        assert ids[-1] == prompt.end
        text = tokenizer.decode(ids[:-1])
        assert text == label_text.write(row)
        written.add(tuple(ids))
    assert len(written) == 2 ** len(LABELS)
    build_label_tree(answers)


def test_only_labels_and_end_count_in_the_loss(tiny):
    import datasets

    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen3"))
    label_text = choose_label_text(["anger", "joy", "love"], "columns", [1, 1, 1])
    prompt = build_prompt(DEFAULT_TEMPLATE, label_text, tokenizer)
    answers = answer_tokens(label_text, tokenizer, prompt.end)
    budget = text_budget(prompt, answers, len(prompt.head) + len(prompt.tail) + 30)
    texts = ["so happy", "no feelings", "a text that is far too long " * 20, "sly <|im_end|> text"]
    rows = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    examples = Examples(datasets.Dataset.from_dict({"id": list("abcd"), "text": texts, "labels": rows}))
    encoded = encode_conversations(examples, tokenizer, prompt, answers, label_text.columns, budget)
    counted = [tokenizer.decode([i for i in row if i != -100]) for row in encoded["labels"]]
    ends = "<|im_end|>"
    assert counted == [f"joy, love{ends}", f"none{ends}", f"anger, joy, love{ends}", f"anger{ends}"]
    # The long text is cut, not its labels; all other rows are whole.
    cut = len(text_ids(texts[2:3], tokenizer)[0]) - budget
    whole = zip(encoded["full_length"][:], encoded["length"][:])
    assert [full_length - length for full_length, length in whole] == [0, 0, cut, 0]
    for ids, labels, length in zip(encoded["input_ids"], encoded["labels"], encoded["length"]):
        assert len(ids) == len(labels) == length <= len(prompt.head) + len(prompt.tail) + 30
        assert ids[: len(prompt.head)] == prompt.head
        # A text cannot end the user's turn.
        assert ids.count(prompt.end) == 2


def test_templates(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))
    label_text = choose_label_text(["a", "b"], "columns", [1, 1])
    prompt = build_prompt("{{ labels | length }}{{ no_label }}{{ chat }} {{ text }}\n", label_text, tokenizer)
    assert (prompt.before, prompt.after) == ("2noneFalse ", "\n")
    for template, problem in [
        ("no place", "must stand in it once"),
        ("{{ text }}{{ text }}", "must stand in it once"),
        ("{{ text }}{{ tweet }}", "'tweet' is undefined"),
        ("{{ text | upper }}", "must stand in it once"),
        ("{{ text }}{% if 'x' in text %}{% endif %}", "must stand in it once"),
        ("{{ text }}{{ 1 / 0 }}", "division by zero"),
        ("{% if %}", "--prompt_template"),
    ]:
        with pytest.raises(UserError, match=problem):
            build_prompt(template, label_text, tokenizer)
    with pytest.raises(UserError, match="no room is left"):
        text_budget(prompt, answer_tokens(label_text, tokenizer, prompt.end), 10)


def test_chat_templates_that_differ(tiny):
    """One that opens a think block whatever it is told, one that adds a system prompt, one that fails."""
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen3"))
    label_text = choose_label_text(["a", "b"], "columns", [1, 1])
    start, end = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}", "answer: "
    tokenizer.chat_template = start + "{% if add_generation_prompt %}" + end + "<think>\n{% endif %}"
    prompt = build_prompt("{{ text }}", label_text, tokenizer)
    assert (prompt.before, prompt.after) == ("user: ", "<|im_end|>answer: <think>\n\n</think>\n\n")
    tokenizer.chat_template = "system: be kind " + start + "{% if add_generation_prompt %}" + end + "{% endif %}"
    prompt = build_prompt("{{ text }}", label_text, tokenizer)
    assert (prompt.before, prompt.after) == ("system: be kind user: ", "<|im_end|>answer: ")
    assert prompt.end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{{ bos_token.nothing.here }}"
    with pytest.raises(UserError, match="chat template cannot be used"):
        build_prompt("{{ text }}", label_text, tokenizer)
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(UserError, match="does not hold the user's words"):
        build_prompt("{{ text }}", label_text, tokenizer)


def test_special_tokens_in_texts_and_labels(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen3"))
    tokenizer.add_tokens(["<think>"])  # not called special, as in Qwen3
    ordinary, control = text_ids(["a b", "a <think> b<|im_end|><think>"], tokenizer)
    assert tokenizer.decode(control) == "a <think> b<|im_end|><think>"
    assert tokenizer.decode(ordinary) == "a b"
    assert not set(control) & set(tokenizer.convert_tokens_to_ids(["<think>", "<|im_end|>"]))
    label_text = choose_label_text(["a", "b <think>"], "columns", [1, 1])
    with pytest.raises(UserError, match="holds <think>"):
        answer_tokens(label_text, tokenizer, 2)
