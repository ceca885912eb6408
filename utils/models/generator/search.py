"""Scoring with a label generator: its answer for a text, and the probability that each label is in the answer.

The model is restricted to valid answers (see `label_tree`): at each decision the probabilities of the tokens that may
follow are normalised to 1. So the probabilities of all answers add up to 1, and P(label) is the sum over the answers
that hold the label. The answers form a tree, which is searched best first. Several nodes of a row are fed to the model
in one pass, as branches that share the row's keys and values: each token has its own line in the attention mask (tree
attention; Miao et al. 2024, SpecInfer, section 4.2).
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from utils.core.errors import UserError
from utils.core.progress import Progress, off_with_transformers
from utils.models.encoding import first_position
from utils.models.generator.label_tree import END, ON, LabelTree
from utils.models.generator.prompts import Prompt, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Nodes of one row fed at a time. Limits the memory of a pass, and the padding of rows that need few nodes.
NODES_PER_PASS = 16
# Probability mass that counts as zero: rounding may leave this much of 1.
NEGLIGIBLE = 1e-9


@dataclass
class Scores:
    """Scores of N rows, labels in the written order.

    Args:
        decoded: the greedy answer, 0/1 `[N, L]`.
        probabilities: probability that each label is in the answer, `[N, L]`.
        covered: mass of the answers that were reached, `[N]`; where it is 1, `probabilities` are exact.
    """

    decoded: np.ndarray
    probabilities: np.ndarray
    covered: np.ndarray


@dataclass
class _Fed:
    """Nodes that were fed, M of them for all rows of a batch; the first B are the roots.

    Args:
        row: number of the row, `[M]`.
        node: in the tree, `[M]`.
        mass: probability of the choices that lead here, `[M]`.
        labels: labels that are certain here, `[M, L]` of booleans.
        sees: places in the cache of the tokens of its ancestors and its own, `[M, W]` of booleans.
        depth: tokens between the prompt and the first one behind this node, `[M]`.
        choices: probability of each choice of the node from here, the others before it in the node included,
            `[M, D, K]`; 0 for those that lead to the next decision.
    """

    row: np.ndarray
    node: np.ndarray
    mass: np.ndarray
    labels: np.ndarray
    sees: np.ndarray
    depth: np.ndarray
    choices: np.ndarray

    def __add__(self, other: _Fed) -> _Fed:
        """Both; the places in the cache of the first are widened to those of the other."""
        widened = np.zeros((len(self.row), other.sees.shape[1]), dtype=bool)
        widened[:, : self.sees.shape[1]] = self.sees
        parts = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Fed(*(np.concatenate([widened if first is self.sees else first, second]) for first, second in parts))


@dataclass
class _Branches:
    """Nodes that may be fed next, M of them for all rows of a batch.

    Args:
        row: number of the row, `[M]`.
        node: in the tree, `[M]`.
        mass: probability of the choices that lead here, `[M]`.
        parent: number of the node in `_Fed` that it follows, `[M]`.
        gains: labels that are certain here and were not at its parent, `[M, G]`; -1 for none.
        greedy: whether each choice on the way was the likeliest, `[M]`.
    """

    row: np.ndarray
    node: np.ndarray
    mass: np.ndarray
    parent: np.ndarray
    gains: np.ndarray
    greedy: np.ndarray

    def __getitem__(self, some: np.ndarray) -> _Branches:
        return _Branches(*(getattr(self, name)[some] for name in _BRANCH_FIELDS))

    def __add__(self, other: _Branches) -> _Branches:
        pairs = ((getattr(self, name), getattr(other, name)) for name in _BRANCH_FIELDS)
        return _Branches(*(np.concatenate(pair) for pair in pairs))

    def __len__(self) -> int:
        return len(self.row)


_BRANCH_FIELDS = tuple(field.name for field in fields(_Branches))


def _certain(labels: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Labels `[M, L]` of booleans, with those of `gains` `[M, G]` too."""
    with_none = np.zeros((len(labels), labels.shape[1] + 1), dtype=bool)
    with_none[:, :-1] = labels
    with_none[np.arange(len(labels))[:, None], gains] = True  # -1 is the last column
    return with_none[:, :-1]


def _first_of_row(rows: np.ndarray) -> np.ndarray:
    """For sorted numbers of rows `[M]`: the place where each one's row begins, `[M]`."""
    return np.searchsorted(rows, rows, side="left")


@contextmanager
def _narrow_head(model: PreTrainedModel, token_ids: list[int]) -> Generator[torch.Tensor]:
    """Make the model compute the logits of these tokens only; gives their columns in the logits.

    The model's own forward runs, including any scaling or capping of logits.
    """
    head = model.get_output_embeddings()
    ids = torch.tensor(token_ids, device=head.weight.device)
    # Rows cannot be taken out of sharded or quantised weights: then all logits are computed.
    plain = type(head) is torch.nn.Linear and type(head.weight) is torch.nn.Parameter
    if not plain or hasattr(head.weight, "ds_id"):
        yield ids
        return
    narrow = torch.nn.Linear(1, 1, bias=head.bias is not None, device="meta")
    narrow.weight = torch.nn.Parameter(head.weight.detach()[ids], requires_grad=False)
    if head.bias is not None:
        narrow.bias = torch.nn.Parameter(head.bias.detach()[ids], requires_grad=False)
    model.set_output_embeddings(narrow)
    try:
        yield torch.arange(len(token_ids), device=head.weight.device)
    finally:
        model.set_output_embeddings(head)


def check_scorable(model: PreTrainedModel, decoding: str, max_length: int) -> None:
    """Refuse a model whose answers cannot be scored or decoded.

    Branches are told apart by an attention mask and by position ids, so the model must accept both, and must attend to
    all tokens of a row.

    Args:
        model: causal language model.
        decoding: `constrained` or `free`.
        max_length: tokens of prompt, text and answer together.

    Raises:
        UserError: for a model that takes no position ids (alibi) or no mask of this form, has layers that keep a state
            instead of keys and values, or looks back too few tokens; and for free decoding of RoBERTa, whose positions
            transformers' `generate` counts differently from its training.
    """
    config = model.config.get_text_config()
    if "position_ids" not in inspect.signature(type(model).forward).parameters or getattr(config, "alibi", False):
        raise UserError(
            f"{config.model_type} models place tokens by themselves, so labels cannot be scored: use another model"
        )
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_window")]
    windows = [window for window in windows if isinstance(window, int) and 0 < window < max_length]
    if windows and getattr(config, "use_sliding_window", True):
        raise UserError(f"the model looks back {windows[0]} tokens only, less than --max_length {max_length}: lower it")
    if decoding == "free" and first_position(model.config) > 0:
        raise UserError(f"--decoding free does not work with {model.config.model_type} models: leave it out")
    implementation = getattr(model.config, "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        raise UserError(
            f"labels are scored with sdpa or eager attention, not {implementation}: leave --attn_implementation out"
        )
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"a model with {', '.join(sorted(kinds))} layers cannot score labels: use another model")


@torch.inference_mode()
def score_labels(
    model: PreTrainedModel,
    tree: LabelTree,
    prompt: Prompt,
    texts: list[list[int]],
    pad_id: int,
    batch_size: int,
    coverage: float,
    max_nodes: int,
) -> Scores:
    """Score texts, in batches in the given order.

    Args:
        model: causal language model, on its device, in evaluation mode.
        tree: the valid answers.
        prompt: the tokens around a text.
        texts: token ids of the N texts.
        pad_id: token id to pad with.
        batch_size: texts in a batch.
        coverage: mass of the answers to reach; 1 reaches all and makes probabilities exact, 0 only decodes.
        max_nodes: nodes of the tree to feed at most for each row. The greedy answer is completed even beyond that.
    """
    rows = [ids + prompt.tail + tree.nodes[tree.root].tokens for ids in texts]
    parts = []
    with _narrow_head(model, tree.token_ids) as columns:
        shared = _run_shared(model, prompt.head)
        with Progress("answering", len(rows), "texts", **off_with_transformers()) as bar:
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                parts.append(_BatchSearch(model, tree, columns, pad_id, shared, batch).run(coverage, max_nodes))
                bar.update(len(batch))
    if not parts:
        return Scores(np.zeros((0, tree.size), dtype=np.int8), np.zeros((0, tree.size)), np.zeros(0))
    names = [field.name for field in fields(Scores)]
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _run_shared(model: PreTrainedModel, head: list[int]) -> DynamicCache:
    """Keys and values of the prompt's head, which all rows share."""
    if not head:
        return DynamicCache()
    ids = torch.tensor([head], device=model.device)
    positions = torch.arange(len(head), device=model.device)[None] + first_position(model.config)
    return model(input_ids=ids, position_ids=positions, past_key_values=DynamicCache(), use_cache=True).past_key_values


class _BatchSearch:
    """The searches of a batch of B rows, which share passes of the model and a cache of keys and values.

    The cache holds the prompts and behind them, in `width` places, the tokens of the nodes that were fed. Its rows are
    `active`, numbers of rows of the batch: when many rows are finished, they are dropped from the cache. What is done
    on the host is done for all rows at once.

    Args:
        model: causal language model.
        tree: the valid answers.
        columns: positions of the tokens in `tree.token_ids` in the model's logits.
        pad_id: token id to pad with.
        shared: keys and values of the prompt's head.
        rows: token ids of each row behind the head, those of the tree's root included.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tree: LabelTree,
        columns: torch.Tensor,
        pad_id: int,
        shared: DynamicCache,
        rows: list[list[int]],
    ) -> None:
        self.model, self.tree, self.arrays, self.columns, self.pad_id = model, tree, tree.arrays, columns, pad_id
        head_length, size = shared.get_seq_length(), len(rows)
        copies = [(key.expand(size, *[-1] * 3), value.expand(size, *[-1] * 3)) for key, value, *_ in shared]
        self.cache = DynamicCache(copies) if head_length else DynamicCache()
        self.active, self.width = np.arange(size), 0
        begin_at = head_length + first_position(model.config)
        self.next_positions = begin_at + np.array([len(row) for row in rows])
        ids, real = left_padded(rows, pad_id)
        positions = begin_at + (real.cumsum(dim=1) - 1).clamp(min=0)
        mask = torch.cat([torch.ones(size, head_length, dtype=real.dtype), real], dim=1)
        self.visible = mask.bool()  # tokens of the prompts, without the padding
        self.fed: _Fed | Any = None  # there are always the roots, once the prompts are fed
        self.reached = np.zeros((size, tree.size))  # mass of the answers that were reached and hold a label
        self.covered, self.number_fed = np.zeros(size), np.zeros(size, dtype=np.int64)
        self.decoded = np.zeros((size, tree.size), dtype=np.int8)
        self._feed_prompts(ids, positions, mask)

    def run(self, coverage: float, max_nodes: int) -> Scores:
        """Search to the end. See `score_labels` for the arguments."""
        while self._feed_nodes(coverage, max_nodes):
            pass
        probabilities = self.reached
        if len(self.branches) and self.tree.single_label:  # in equal parts on what a branch can say, so that all is 1
            reachable = self.tree.reachable[self.branches.node]
            shares = self.branches.mass[:, None] * reachable / reachable.sum(axis=1, keepdims=True)
            np.add.at(probabilities, self.branches.row, shares)
        elif len(self.branches):
            certain = _certain(self.fed.labels[self.branches.parent], self.branches.gains)
            open_ = np.arange(self.tree.size) >= self.arrays.undecided[self.branches.node][:, None]
            expected = np.where(certain, 1.0, open_ * self._rates()[self.branches.row])
            np.add.at(probabilities, self.branches.row, self.branches.mass[:, None] * expected)
        return Scores(self.decoded, probabilities.clip(0, 1), self.covered.clip(0, 1))

    def _rates(self) -> np.ndarray:
        """How often a label is said where it is decided on, at the nodes that were fed: `[B, L]`.

        Labels are said in one order, so each answer decides on each label once. What was said before matters little
        beside the text: the rate at the nodes that were fed, by their mass, stands for those that were not.
        """
        arrays, fed, size = self.arrays, self.fed, self.tree.size
        m, d, k = np.nonzero(fed.choices)
        mass, rows, nodes = fed.mass[m] * fed.choices[m, d, k], fed.row[m], fed.node[m]
        said = np.zeros((len(self.covered), size + 1))
        np.add.at(said, (rows[:, None], arrays.gains[nodes, d, k]), mass[:, None])  # -1, none, is the last column
        decided = np.zeros((len(self.covered), size + 1))
        np.add.at(decided, (rows, arrays.undecided[nodes]), mass)
        np.add.at(decided, (rows, arrays.undecided[arrays.targets[nodes, d, k]]), -mass)  # END is the last node
        decided = decided.cumsum(axis=1)[:, :-1]
        return np.divide(said[:, :-1], decided, out=np.zeros_like(decided), where=decided > NEGLIGIBLE).clip(0, 1)

    def _feed_prompts(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> None:
        """Run the prompts (token ids and positions `[B, T]`, mask `[B, head + T]`) and take the root's decisions."""
        root, size = self.tree.root, len(ids)
        places = [decision.position for decision in self.tree.nodes[root].decisions]
        logits = self._forward(ids, positions, mask, logits_to_keep=len(self.tree.nodes[root].tokens) - min(places))
        at = np.zeros(self.arrays.positions.shape[1], dtype=np.int64)
        at[: len(places)] = np.array(places) - min(places)
        roots = _Branches(
            np.arange(size),
            np.full(size, root),
            np.ones(size),
            np.arange(size),
            np.full((size, self.arrays.gains.shape[3]), -1),
            np.ones(size, dtype=bool),
        )
        nothing = np.zeros((size, self.tree.size), dtype=bool)
        self.branches = roots[np.zeros(size, dtype=bool)]
        none_seen, depth = np.zeros((size, 0), dtype=bool), np.zeros(size, dtype=np.int64)
        self._take(roots, nothing, none_seen, depth, logits[:, at])

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **options: int) -> np.ndarray:
        """Run tokens through the model and into the cache; gives their logits `[B, T, C]`."""
        device = self.model.device
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
            **options,
        ).logits[..., self.columns]
        return logits.float().cpu().numpy()

    def _take(
        self, taken: _Branches, labels: np.ndarray, sees: np.ndarray, depth: np.ndarray, logits: np.ndarray
    ) -> None:
        """Add the answers and branches that branches lead to, after they have been fed.

        Args:
            taken: the M branches.
            labels: labels that are certain there, `[M, L]`.
            sees: places of their ancestors' tokens and their own, `[M, width]`.
            depth: tokens up to the end of their nodes, `[M]`.
            logits: at each decision, of all C tokens that the tree chooses between, `[M, D, C]`.
        """
        arrays, many = self.arrays, len(taken)
        valid = arrays.valid[taken.node]
        logits = np.take_along_axis(logits, arrays.columns[taken.node], axis=2).astype(float)
        logits[~valid] = -np.inf
        highest = logits.max(axis=2, keepdims=True)
        exponentials = np.exp(logits - np.where(np.isfinite(highest), highest, 0.0))
        choices = exponentials / np.maximum(exponentials.sum(axis=2, keepdims=True), NEGLIGIBLE)
        likeliest = logits.argmax(axis=2)
        # A decision is met if those before it in the node have been to go on.
        on = arrays.on[taken.node]
        goes_on = np.take_along_axis(choices, on.clip(0)[..., None], axis=2)[..., 0] * (on >= 0)
        met = np.cumprod(np.concatenate([np.ones((many, 1)), goes_on[:, :-1]], axis=1), axis=1)
        met_greedily = np.cumprod(np.concatenate([np.ones((many, 1)), (likeliest == on)[:, :-1]], axis=1), axis=1)
        greedy = (taken.greedy[:, None] & (met_greedily > 0))[..., None] & (
            np.arange(logits.shape[2]) == likeliest[..., None]
        )
        targets = arrays.targets[taken.node]
        choices = choices * met[..., None] * (valid & (targets != ON))

        number = 0 if self.fed is None else len(self.fed.row)
        fed = _Fed(taken.row, taken.node, taken.mass, labels, sees, depth, choices)
        self.fed = fed if self.fed is None else self.fed + fed

        m, d, k = np.nonzero(valid & (targets != ON))
        mass, gains, ends = taken.mass[m] * choices[m, d, k], arrays.gains[taken.node[m], d, k], targets[m, d, k] == END
        ended = _certain(labels[m[ends]], gains[ends])
        np.add.at(self.reached, taken.row[m[ends]], mass[ends][:, None] * ended)
        np.add.at(self.covered, taken.row[m[ends]], mass[ends])
        answers = greedy[m, d, k][ends]
        self.decoded[taken.row[m[ends]][answers]] = ended[answers]
        m, d, k = m[~ends], d[~ends], k[~ends]
        self.branches += _Branches(
            taken.row[m], targets[m, d, k], mass[~ends], number + m, gains[~ends], greedy[m, d, k]
        )

    def _next_branches(self, coverage: float, max_nodes: int) -> _Branches:
        """Remove and return the branches to feed next, sorted by row.

        For each row these are the ones with the most mass, until the rest has at most 1 - coverage, and the greedy
        one. A search that feeds one at a time, best first, must feed all of them too, so feeding them together costs no
        extra nodes.

        Args:
            coverage: mass of the answers to reach.
            max_nodes: nodes to feed for a row in all; the greedy branch is fed beyond that.
        """
        branches = self.branches[np.lexsort((-self.branches.mass, self.branches.row))]
        begin = _first_of_row(branches.row)
        before = np.concatenate([[0.0], np.cumsum(branches.mass)])
        total = np.bincount(branches.row, branches.mass, minlength=len(self.covered))
        left = total[branches.row] - (before[:-1] - before[begin])
        room = np.minimum(NODES_PER_PASS, max_nodes - self.number_fed)[branches.row]
        wanted = (left > max(1 - coverage, NEGLIGIBLE)) & (np.arange(len(branches)) - begin < room) | branches.greedy
        self.branches = branches[~wanted]
        taken = branches[wanted]
        self.number_fed += np.bincount(taken.row, minlength=len(self.covered))
        return taken

    def _feed_nodes(self, coverage: float, max_nodes: int) -> bool:
        """Feed the next branches of all rows in one pass and take their decisions; False if none are left."""
        taken = self._next_branches(coverage, max_nodes)
        if not len(taken):
            return False
        busy = np.unique(taken.row)
        if len(busy) < 0.75 * len(self.active):  # copying the cache only pays if it gets clearly smaller
            self._keep(np.flatnonzero(np.isin(self.active, busy)))
        at = np.searchsorted(self.active, taken.row)
        # The nodes of a row lie side by side.
        lengths = self.arrays.lengths[taken.node]
        before = np.concatenate([[0], np.cumsum(lengths)])
        begin = before[:-1] - before[_first_of_row(taken.row)]
        ids, positions, sees = self._layout(taken, at, begin, lengths)
        logits = self._forward(torch.from_numpy(ids), torch.from_numpy(positions), self._mask(sees))
        decided_at = begin[:, None] + self.arrays.positions[taken.node]
        labels = _certain(self.fed.labels[taken.parent], taken.gains)
        self.width += ids.shape[1]
        depth = self.fed.depth[taken.parent] + lengths
        self._take(taken, labels, sees[at, begin + lengths - 1], depth, logits[at[:, None], decided_at])
        return True

    def _keep(self, kept: np.ndarray) -> None:
        """Drop all rows of the cache but these, given by their numbers in it."""
        self.cache.batch_select_indices(torch.from_numpy(kept).to(self.model.device))
        self.visible = self.visible[torch.from_numpy(kept)]
        self.active = self.active[kept]

    def _layout(
        self, taken: _Branches, at: np.ndarray, begin: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lay the tokens of the branches' nodes side by side, one line for each row of the cache.

        Args:
            taken: M branches.
            at: row of the cache of each, `[M]`.
            begin: place of its first token in the line, `[M]`.
            lengths: number of its tokens, `[M]`.

        Returns:
            token ids `[B, T]`; their positions `[B, T]`; and which of the nodes' tokens, those in the cache and these,
            each token sees: its ancestors', those before it in its node, and itself, `[B, T, width + T]`.
        """
        size, count = len(self.active), int((begin + lengths).max())
        ids = np.full((size, count), self.pad_id)
        positions = np.zeros((size, count), dtype=np.int64)
        sees = np.zeros((size, count, self.width + count), dtype=bool)
        sees[:, np.arange(count), self.width + np.arange(count)] = True
        branch, token = np.nonzero(np.arange(self.arrays.tokens.shape[1]) < lengths[:, None])
        line, place = at[branch], begin[branch] + token
        ids[line, place] = self.arrays.tokens[taken.node[branch], token]
        positions[line, place] = self.next_positions[taken.row[branch]] + self.fed.depth[taken.parent[branch]] + token
        known = self.fed.sees.shape[1]
        sees[line, place, :known] = self.fed.sees[taken.parent[branch]]
        for back in range(1, int(lengths.max())):
            some = token >= back
            sees[line[some], place[some], self.width + place[some] - back] = True
        return ids, positions, sees

    def _mask(self, sees: np.ndarray) -> torch.Tensor:
        """Attention mask `[B, 1, T, cache + T]`: the prompt, and what `sees` says of the nodes' tokens."""
        prompts = self.visible[:, None].expand(-1, sees.shape[1], -1)
        mask = torch.cat([prompts, torch.from_numpy(sees)], dim=2)[:, None].to(self.model.device)
        if self.model.config._attn_implementation == "sdpa":  # the only one that takes a boolean mask
            return mask
        return torch.where(mask, 0.0, torch.finfo(self.model.dtype).min).to(self.model.dtype)
