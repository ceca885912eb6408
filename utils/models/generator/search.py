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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig

from utils.core.errors import UserError
from utils.models.encoding import first_position
from utils.models.generator.label_tree import END, ON, LabelTree, Node
from utils.models.generator.prompts import Prompt, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
class _Branch:
    """A node of a row's search tree that has not been fed yet."""

    node: int
    mass: float  # probability of the choices that lead here
    labels: tuple[int, ...]  # labels that every answer below this node holds
    seen: list[int]  # places of its ancestors' tokens in the cache
    depth: int  # tokens between the prompt and its first one
    greedy: bool  # whether each choice on the way was the likeliest


@dataclass
class _Search:
    """The search of one row."""

    branches: list[_Branch] = field(default_factory=list)
    reached: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)  # answers: mass, labels
    decoded: tuple[int, ...] | Any = None  # labels of the greedy answer, once it is reached
    fed: int = 0  # number of nodes

    def take(self, branch: _Branch, node: Node, logits: np.ndarray, places: list[int]) -> None:
        """Add the answers and branches that a branch leads to, after it has been fed.

        Args:
            branch: the branch.
            node: its node in the label tree, with D decisions.
            logits: for each decision, those of all C tokens that the tree chooses between, `[D, C]`.
            places: where the node's tokens are in the cache.
        """
        mass, labels, greedy = branch.mass, branch.labels, branch.greedy
        for decision, row in zip(node.decisions, logits):
            logits_here = row[decision.columns].astype(float)
            likeliest = int(logits_here.argmax())
            probabilities = np.exp(logits_here - logits_here[likeliest])
            probabilities /= probabilities.sum()
            on = None
            for i, target in enumerate(decision.targets):
                choice = (mass * probabilities[i], labels + decision.gained[i], greedy and i == likeliest)
                if target == ON:
                    on = choice
                elif target == END:
                    self.reached.append(choice[:2])
                    if choice[2]:
                        self.decoded = choice[1]
                else:
                    seen, depth = branch.seen + places, branch.depth + len(node.tokens)
                    self.branches.append(_Branch(target, choice[0], choice[1], seen, depth, choice[2]))
            if on is not None:
                mass, labels, greedy = on

    def next_branches(self, coverage: float, max_nodes: int) -> list[_Branch]:
        """Remove and return the branches to feed next.

        These are the ones with the most mass, until the rest has at most 1 - coverage, and the greedy one. A search
        that feeds one at a time, best first, must feed all of them too, so feeding them together costs no extra nodes.

        Args:
            coverage: mass of the answers to reach.
            max_nodes: nodes to feed for this row in all; the greedy branch is fed beyond that.
        """
        self.branches.sort(key=lambda branch: -branch.mass)
        left = sum(branch.mass for branch in self.branches)
        room = min(NODES_PER_PASS, max_nodes - self.fed)
        taken, kept = [], []
        for branch in self.branches:
            wanted = left > max(1 - coverage, NEGLIGIBLE) and len(taken) < room
            (taken if wanted or branch.greedy else kept).append(branch)
            left -= branch.mass
        self.branches = kept
        self.fed += len(taken)
        return taken

    def summary(self, size: int) -> tuple[np.ndarray, np.ndarray, float]:
        """`(decoded [L], probabilities [L], covered)` for L = `size` labels.

        A branch that was not fed counts for the labels that all its answers hold.
        """
        decoded, probabilities = np.zeros(size, dtype=np.int8), np.zeros(size)
        decoded[list(self.decoded)] = 1
        for mass, labels in self.reached + [(branch.mass, branch.labels) for branch in self.branches]:
            probabilities[list(labels)] += mass
        return decoded, probabilities.clip(0, 1), min(1.0, sum(mass for mass, _ in self.reached))


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
    summaries = []
    with _narrow_head(model, tree.token_ids) as columns:
        shared = _run_shared(model, prompt.head)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            summaries += _BatchSearch(model, tree, columns, pad_id, shared, batch).run(coverage, max_nodes)
    if not summaries:
        return Scores(np.zeros((0, tree.size), dtype=np.int8), np.zeros((0, tree.size)), np.zeros(0))
    decoded, probabilities, covered = zip(*summaries)
    return Scores(np.array(decoded), np.array(probabilities), np.array(covered))


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
    `active`, numbers of rows of the batch: when many rows are finished, they are dropped from the cache.

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
        self.model, self.tree, self.columns, self.pad_id = model, tree, columns, pad_id
        head_length = shared.get_seq_length()
        copies = [(key.expand(len(rows), *[-1] * 3), value.expand(len(rows), *[-1] * 3)) for key, value, *_ in shared]
        self.cache = DynamicCache(copies) if head_length else DynamicCache()
        self.active, self.width = list(range(len(rows))), 0
        begin_at = head_length + first_position(model.config)
        self.next_positions = [begin_at + len(row) for row in rows]
        ids, real = left_padded(rows, pad_id)
        positions = begin_at + (real.cumsum(dim=1) - 1).clamp(min=0)
        mask = torch.cat([torch.ones(len(rows), head_length, dtype=real.dtype), real], dim=1)
        self.visible = mask.bool()  # tokens of the prompts, without the padding
        self.searches = [_Search() for _ in rows]
        self._feed_prompts(ids, positions, mask)

    def run(self, coverage: float, max_nodes: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Search to the end; gives the summary of each row. See `score_labels` for the arguments."""
        while self._feed_nodes(coverage, max_nodes):
            pass
        return [search.summary(self.tree.size) for search in self.searches]

    def _feed_prompts(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> None:
        """Run the prompts (token ids and positions `[B, T]`, mask `[B, head + T]`) and take the root's decisions."""
        root = self.tree.nodes[self.tree.root]
        first = min(decision.position for decision in root.decisions)
        logits = self._forward(ids, positions, mask, logits_to_keep=len(root.tokens) - first)
        for search, row in zip(self.searches, logits):
            branch = _Branch(self.tree.root, 1.0, (), [], 0, True)
            search.take(branch, root, row[[decision.position - first for decision in root.decisions]], [])

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

    def _feed_nodes(self, coverage: float, max_nodes: int) -> bool:
        """Feed the next branches of all rows in one pass and take their decisions; False if none are left."""
        taken = [self.searches[i].next_branches(coverage, max_nodes) for i in self.active]
        busy = [at for at, branches in enumerate(taken) if branches]
        if not busy:
            return False
        if len(busy) < 0.75 * len(self.active):  # copying the cache only pays if it gets clearly smaller
            taken = [taken[at] for at in busy]
            self._keep(busy)
        ids, positions, sees = self._layout(taken)
        logits = self._forward(torch.from_numpy(ids), torch.from_numpy(positions), self._mask(sees))
        for at, branches in enumerate(taken):
            begin = 0
            for branch in branches:
                node = self.tree.nodes[branch.node]
                places = list(range(self.width + begin, self.width + begin + len(node.tokens)))
                decisions = [begin + decision.position for decision in node.decisions]
                self.searches[self.active[at]].take(branch, node, logits[at, decisions], places)
                begin += len(node.tokens)
        self.width += ids.shape[1]
        return True

    def _keep(self, kept: list[int]) -> None:
        """Drop all rows of the cache but these, given by their numbers in it."""
        self.cache.batch_select_indices(torch.tensor(kept, device=self.model.device))
        self.visible = self.visible[kept]
        self.active = [self.active[at] for at in kept]

    def _layout(self, taken: list[list[_Branch]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lay the tokens of the branches' nodes side by side, one line for each row of the cache.

        Args:
            taken: branches of each row of the cache.

        Returns:
            token ids `[B, T]`; their positions `[B, T]`; and which of the nodes' tokens, those in the cache and these,
            each token sees: its ancestors', those before it in its node, and itself, `[B, T, width + T]`.
        """
        nodes = [[self.tree.nodes[branch.node] for branch in branches] for branches in taken]
        count = max(sum(len(node.tokens) for node in row) for row in nodes)
        ids = np.full((len(taken), count), self.pad_id)
        positions = np.zeros((len(taken), count), dtype=np.int64)
        sees = np.zeros((len(taken), count, self.width + count), dtype=bool)
        sees[:, np.arange(count), self.width + np.arange(count)] = True
        for at, (branches, row) in enumerate(zip(taken, nodes)):
            begin = 0
            for branch, node in zip(branches, row):
                end = begin + len(node.tokens)
                ids[at, begin:end] = node.tokens
                position = self.next_positions[self.active[at]] + branch.depth
                positions[at, begin:end] = position + np.arange(end - begin)
                sees[at, begin:end, branch.seen] = True
                for k in range(begin + 1, end):
                    sees[at, k, self.width + begin : self.width + k] = True
                begin = end
        return ids, positions, sees

    def _mask(self, sees: np.ndarray) -> torch.Tensor:
        """Attention mask `[B, 1, T, cache + T]`: the prompt, and what `sees` says of the nodes' tokens."""
        prompts = self.visible[:, None].expand(-1, sees.shape[1], -1)
        mask = torch.cat([prompts, torch.from_numpy(sees)], dim=2)[:, None].to(self.model.device)
        if self.model.config._attn_implementation == "sdpa":  # the only one that takes a boolean mask
            return mask
        return torch.where(mask, 0.0, torch.finfo(self.model.dtype).min).to(self.model.dtype)


@torch.inference_mode()
def decode_freely(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    texts: list[list[int]],
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Decode greedily without restricting the model to valid answers.

    Args:
        model: causal language model, on its device, in evaluation mode.
        tokenizer: turns its answers into text.
        prompt: the tokens around a text.
        texts: token ids of the N texts.
        batch_size: texts in a batch.
        max_new_tokens: tokens of an answer at most.

    Returns:
        the answers, `[N]`.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=prompt.end, pad_token_id=tokenizer.pad_token_id
    )
    answers = []
    for start in range(0, len(texts), batch_size):
        rows = [prompt.head + ids + prompt.tail for ids in texts[start : start + batch_size]]
        ids, mask = left_padded(rows, tokenizer.pad_token_id)
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            synced_gpus=False,  # `in_lockstep` sees to that
        )
        for row in output[:, ids.shape[1] :].tolist():
            kept = row[: row.index(prompt.end)] if prompt.end in row else row
            answers.append(str(tokenizer.decode(kept, skip_special_tokens=True)))
    return answers
