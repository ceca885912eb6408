"""The answers a label generator may give, as a tree of the decisions that tell them apart.

An answer is a list of labels in a fixed order, each at most once, or the word for no label; then the end token. Most of
its tokens are forced by those before them: a model has to be asked only where two valid answers part. Whether to end or
to go on, and with what, are asked in one pass, by feeding what would go on (a comma, say) without waiting.
"""

from dataclasses import dataclass, field

import numpy as np

from utils.core.errors import UserError

# What a choice leads to, besides the number of a node.
END = -1  # the end of the answer
ON = -2  # the next decision of the same node
# What may be complete in a trie, besides the number of a label.
_END_TOKEN, _NONE = -3, -4


@dataclass
class Decision:
    """A choice between K tokens after token number `position` of the node's tokens (-1: after the prompt).

    `columns` `[K]`: where the tokens stand in `LabelTree.token_ids`; `targets` `[K]`: what each leads to; `gained`
    `[K]`: the labels that each makes certain, as numbers in the written order.
    """

    position: int
    columns: np.ndarray
    targets: list[int]
    gained: list[tuple[int, ...]]


@dataclass
class Node:
    """Tokens to feed in one pass, and the decisions to take on what the model says after them; only the last one leads
    to other nodes."""

    tokens: list[int]
    decisions: list[Decision]


@dataclass
class LabelTree:
    """All valid answers over `size` labels. The first decision of node `root` comes right after the prompt, unless all
    answers begin with the same tokens."""

    nodes: list[Node]
    root: int
    token_ids: list[int]
    size: int


@dataclass
class _Step:
    """A step in a trie of token ids; `complete`: what is complete with it, if anything."""

    children: dict[int, "_Step"] = field(default_factory=dict)
    complete: int | None = None


def _trie(parts):
    root = _Step()
    for tokens, what in parts:
        step = root
        for token in tokens:
            step = step.children.setdefault(token, _Step())
        if step.complete is not None or not tokens:
            raise UserError("the tokenizer writes two labels with the same tokens, or one with none: rename one")
        step.complete = what
    return root


def build_label_tree(answers):
    """The `LabelTree` of `utils.models.generator.prompts.AnswerTokens`.

    Raises:
        UserError: for labels that the tokenizer does not tell apart.
    """
    size = len(answers.first)
    finish = ([answers.end], _END_TOKEN)
    after = {_NONE: _trie([finish])}
    for i in range(size):
        after[i] = _trie([finish, *((answers.later[j], j) for j in range(i + 1, size))])
    start = _trie([(answers.none, _NONE), *((answers.first[j], j) for j in range(size))])
    nodes, known = [], {}

    def certain(step):
        # Where a longer label begins with this one, it is certain only when something else follows.
        return (step.complete,) if step.complete is not None and step.complete >= 0 and not step.children else ()

    def choices(step):
        """`{token: (step it leads to, labels certain then)}`."""
        found = {token: (child, certain(child)) for token, child in step.children.items()}
        if step.complete is not None:
            gained = (step.complete,) if step.complete >= 0 and step.children else ()
            for token, child in after[step.complete].children.items():
                if token in found:
                    raise UserError("the tokenizer does not tell a label from the beginning of another: rename one")
                found[token] = (child, gained + certain(child))
        return found

    def resolve(tokens, step):
        """`(target, labels certain on the way to it)` of the step that `tokens` lead to."""
        if id(step) in known:
            return known[id(step)]
        begun_at, tokens, decisions = id(step), list(tokens), []
        gained = on_the_way = []
        while True:
            found = choices(step)
            ends = [token for token, (child, _) in found.items() if child.complete == _END_TOKEN]
            if len(found) == 1:
                ((token, (step, labels)),) = found.items()
                gained += labels
                if ends:
                    if decisions:
                        decisions[-1].targets[-1] = END
                    break
                tokens.append(token)
            elif len(found) == 2 and ends:
                (on,) = found.keys() - set(ends)
                end_labels, (step, labels) = found[ends[0]][1], found[on]
                gained = list(labels)
                decisions.append(Decision(len(tokens) - 1, [ends[0], on], [END, ON], [end_labels, gained]))
                tokens.append(on)
            else:
                # The end itself is no node; what other choices lead to may be reached already.
                led_to = [
                    (END, ()) if child.complete == _END_TOKEN else resolve([token], child)
                    for token, (child, _) in found.items()
                ]
                labels = [sure + more for (_, sure), (_, more) in zip(found.values(), led_to)]
                decisions.append(Decision(len(tokens) - 1, list(found), [target for target, _ in led_to], labels))
                break
        target = END
        if decisions:
            target = len(nodes)
            nodes.append(Node(tokens[: decisions[-1].position + 1], decisions))
        known[begun_at] = (target, tuple(on_the_way))
        return known[begun_at]

    # From the last label to the first, so that what a label leads to is known already and nothing recurses deeply.
    for i in reversed(range(size)):
        for token, child in after[i].children.items():
            if child.complete != _END_TOKEN:
                resolve([token], child)
    root, _ = resolve([], start)

    token_ids = sorted({token for node in nodes for decision in node.decisions for token in decision.columns})
    place = {token: i for i, token in enumerate(token_ids)}
    for node in nodes:
        for decision in node.decisions:
            decision.columns = np.array([place[token] for token in decision.columns])
            decision.gained = [tuple(labels) for labels in decision.gained]
    return LabelTree(nodes, root, token_ids, size)
