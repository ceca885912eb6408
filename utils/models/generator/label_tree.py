"""The answers a label generator may give, as a tree of the decisions that tell them apart.

An answer is a list of labels in a fixed order, each at most once, or the word for no label; where each text has one
label it is a single one. Then comes the end token. Most of its tokens are forced by those before them, so the model is
asked only where valid answers part. Whether the answer ends or goes on, and how it goes on, is asked in one pass: the
token that would go on (a comma, say) is fed without waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.errors import UserError

if TYPE_CHECKING:
    from utils.models.generator.prompts import AnswerTokens

# What a choice leads to, if not to a node by its number.
END = -1  # the end of the answer
ON = -2  # the next decision of the same node
# What a step of a trie completes, if not a label by its number.
_END_TOKEN, _NONE = -3, -4


@dataclass
class Decision:
    """A choice between K tokens.

    Args:
        position: the model decides after this token of the node's tokens (-1: after the prompt).
        columns: positions of the K tokens in `LabelTree.token_ids`, `[K]`.
        targets: what each choice leads to, `[K]`: the number of a node, END or ON.
        gained: the labels that each choice makes certain, as numbers in the written order, `[K]`.
    """

    position: int
    columns: np.ndarray | Any  # the tokens themselves until the tree is built
    targets: list[int]
    gained: list[tuple[int, ...] | Any]  # lists until then, which may grow


@dataclass
class Node:
    """Tokens to feed in one pass and the decisions to take on the resulting logits.

    Only the last decision leads to other nodes; those before it lead to END or ON.
    """

    tokens: list[int]
    decisions: list[Decision]


@dataclass(frozen=True)
class TreeArrays:
    """A `LabelTree` of V nodes as arrays, padded to T tokens, D decisions, K choices and G gained labels.

    Args:
        tokens: of the nodes, `[V, T]`.
        lengths: numbers of tokens, `[V]`.
        positions: the token that a decision follows, `[V, D]`.
        columns: positions of the choices' tokens in `LabelTree.token_ids`, `[V, D, K]`.
        valid: which choices there are, `[V, D, K]` of booleans.
        targets: what they lead to, `[V, D, K]`.
        on: which choice leads to the next decision, `[V, D]`; -1 for none.
        gains: labels that are certain after a choice and those before it in the node, `[V, D, K, G]`; -1 for none.
        undecided: the first label that a node can still say, `[V + 1]`; L for END, the last.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    positions: np.ndarray
    columns: np.ndarray
    valid: np.ndarray
    targets: np.ndarray
    on: np.ndarray
    gains: np.ndarray
    undecided: np.ndarray

    @classmethod
    def of(cls, nodes: list[Node], size: int) -> TreeArrays:
        """The arrays of a tree's nodes, over `size` labels."""
        gained = []
        for node in nodes:
            before: tuple[int, ...] = ()
            gained.append([])
            for decision in node.decisions:
                gained[-1].append([before + labels for labels in decision.gained])
                if ON in decision.targets:
                    before = gained[-1][-1][decision.targets.index(ON)]
        shape = (
            len(nodes),
            max(len(node.decisions) for node in nodes),
            max(len(decision.targets) for node in nodes for decision in node.decisions),
        )
        most = max(len(labels) for node in gained for decision in node for labels in decision)
        arrays = cls(
            np.zeros((len(nodes), max(len(node.tokens) for node in nodes)), dtype=np.int64),
            np.array([len(node.tokens) for node in nodes]),
            np.zeros(shape[:2], dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=bool),
            np.full(shape, END),
            np.full(shape[:2], -1),
            np.full((*shape, max(1, most)), -1),
            np.full(len(nodes) + 1, size),
        )
        for v, node in enumerate(nodes):
            arrays.tokens[v, : len(node.tokens)] = node.tokens
            for d, decision in enumerate(node.decisions):
                choices = len(decision.targets)
                arrays.positions[v, d] = decision.position
                arrays.columns[v, d, :choices] = decision.columns
                arrays.valid[v, d, :choices] = True
                arrays.targets[v, d, :choices] = decision.targets
                if ON in decision.targets:
                    arrays.on[v, d] = decision.targets.index(ON)
                for k, labels in enumerate(gained[v][d]):
                    arrays.gains[v, d, k, : len(labels)] = labels
                    first = min(labels, default=size)
                    if decision.targets[k] != ON:
                        first = min(first, arrays.undecided[decision.targets[k]])
                    arrays.undecided[v] = min(arrays.undecided[v], first)
        return arrays


@dataclass
class LabelTree:
    """All valid answers over `size` labels.

    The first decision of the node `root` comes right after the prompt, unless all answers begin with the same tokens.
    `token_ids` are all tokens that are chosen between. A node leads to nodes with lower numbers than its own.
    `single_label`: whether each answer is exactly one label.
    """

    nodes: list[Node]
    root: int
    token_ids: list[int]
    size: int
    single_label: bool = False

    @cached_property
    def arrays(self) -> TreeArrays:
        """The nodes as arrays."""
        return TreeArrays.of(self.nodes, self.size)

    @cached_property
    def reachable(self) -> np.ndarray:
        """Which labels may still be said from each node on: `[V, L]` of booleans."""
        found = np.zeros((len(self.nodes), self.size), dtype=bool)
        for v, node in enumerate(self.nodes):
            for decision in node.decisions:
                for target, labels in zip(decision.targets, decision.gained):
                    found[v, list(labels)] = True
                    if target not in (END, ON):
                        found[v] |= found[target]
        return found


@dataclass
class _Step:
    """A step in a trie of token ids.

    `complete`: the label that ends here (its number), _NONE or _END_TOKEN; None in the middle of a word.
    """

    children: dict[int, _Step] = field(default_factory=dict)
    complete: int | None = None

    @property
    def label(self) -> tuple[int, ...]:
        """The label that ends here, if one does."""
        return (self.complete,) if self.complete is not None and self.complete >= 0 else ()


# The step that a token leads to, and the labels that are certain then.
_Choice = tuple[_Step, tuple[int, ...]]


def _trie(words: Iterable[tuple[list[int], int]]) -> _Step:
    """Root of the trie of words, given as pairs of their token ids and what they complete."""
    root = _Step()
    for tokens, what in words:
        step = root
        for token in tokens:
            step = step.children.setdefault(token, _Step())
        if step.complete is not None or not tokens:
            raise UserError("the tokenizer writes two labels with the same tokens, or one with none: rename one")
        step.complete = what
    return root


class _TreeBuilder:
    """Collects the nodes of a `LabelTree`, following the tries of what may come next in an answer."""

    def __init__(self, answers: AnswerTokens) -> None:
        size = len(answers.first)
        finish = ([answers.end], _END_TOKEN)
        # `after[i]`: what may follow label i, the end or a later label.
        self.after = {_NONE: _trie([finish])}
        for i in range(size):
            later = [] if answers.single_label else [(answers.later[j], j) for j in range(i + 1, size)]
            self.after[i] = _trie([finish, *later])
        none = [] if answers.single_label else [(answers.none, _NONE)]
        self.start = _trie([*none, *((answers.first[j], j) for j in range(size))])
        self.size, self.single_label = size, answers.single_label
        self.nodes: list[Node] = []
        # By the id of a step: what it leads to, and the labels that are certain on the way.
        self.resolved: dict[int, tuple[int, tuple[int, ...]]] = {}

    def build(self) -> LabelTree:
        """Build all nodes and number the tokens that are chosen between."""
        # From the last label to the first: what a label leads to is then resolved already, and recursion stays shallow.
        for i in reversed(range(self.size)):
            for token, child in self.after[i].children.items():
                if child.complete != _END_TOKEN:
                    self.resolve([token], child)
        root, _ = self.resolve([], self.start)
        token_ids = sorted({token for node in self.nodes for decision in node.decisions for token in decision.columns})
        place = {token: i for i, token in enumerate(token_ids)}
        for node in self.nodes:
            for decision in node.decisions:
                decision.columns = np.array([place[token] for token in decision.columns])
                decision.gained = [tuple(labels) for labels in decision.gained]
        return LabelTree(self.nodes, root, token_ids, self.size, self.single_label)

    def choices(self, step: _Step) -> dict[int, _Choice]:
        """The tokens that may follow a step.

        Raises:
            UserError: if a token may both go on with a label and follow after it.
        """

        def certain(child: _Step) -> tuple[int, ...]:
            # If a longer label begins with this one, only the next token shows which of the two it is.
            return () if child.children else child.label

        found = {token: (child, certain(child)) for token, child in step.children.items()}
        if step.complete is not None:
            gained = step.label if step.children else ()
            for token, child in self.after[step.complete].children.items():
                if token in found:
                    raise UserError("the tokenizer does not tell a label from the beginning of another: rename one")
                found[token] = (child, gained + certain(child))
        return found

    def resolve(self, tokens: list[int], step: _Step) -> tuple[int, tuple[int, ...]]:
        """Build the node that begins at a step, and the nodes it leads to.

        Args:
            tokens: the token that leads to the step, if any: the node's first one.
            step: where the node begins.

        Returns:
            the node's number, or END if the rest of the answer is forced; and the labels that are certain before its
            first decision.
        """
        if id(step) in self.resolved:
            return self.resolved[id(step)]
        begin, tokens, decisions = step, list(tokens), []
        # `gained` is the list that forced labels are appended to: first the one to return, later that of the last
        # decision's choice to go on.
        gained = on_the_way = []
        while True:
            found = self.choices(step)
            ends = [token for token, (child, _) in found.items() if child.complete == _END_TOKEN]
            if len(found) == 1:  # forced
                ((token, (step, labels)),) = found.items()
                gained += labels
                if ends:
                    if decisions:
                        decisions[-1].targets[-1] = END
                    break
                tokens.append(token)
            elif len(found) == 2 and ends:  # end or go on
                (on,) = found.keys() - set(ends)
                end_labels, (step, labels) = found[ends[0]][1], found[on]
                gained = list(labels)
                decisions.append(Decision(len(tokens) - 1, [ends[0], on], [END, ON], [end_labels, gained]))
                tokens.append(on)
            else:
                decisions.append(self.branch(len(tokens) - 1, found))
                break
        target = END
        if decisions:
            target = len(self.nodes)
            self.nodes.append(Node(tokens[: decisions[-1].position + 1], decisions))
        self.resolved[id(begin)] = (target, tuple(on_the_way))
        return self.resolved[id(begin)]

    def branch(self, position: int, found: dict[int, _Choice]) -> Decision:
        """The decision after token `position` between choices that lead to other nodes, or to the end."""
        led_to = [
            (END, ()) if child.complete == _END_TOKEN else self.resolve([token], child)
            for token, (child, _) in found.items()
        ]
        labels = [sure + more for (_, sure), (_, more) in zip(found.values(), led_to)]
        return Decision(position, list(found), [target for target, _ in led_to], labels)


def build_label_tree(answers: AnswerTokens) -> LabelTree:
    """Build the tree of all valid answers.

    Raises:
        UserError: for labels that the tokenizer does not tell apart.
    """
    return _TreeBuilder(answers).build()
