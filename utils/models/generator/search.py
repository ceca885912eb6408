"""What a label generator says of a text: its answer, and the probability that each label is in its answer.

The model is restricted to valid answers (`label_tree` beside this): at each decision its probabilities of the tokens
that may follow are taken relative to each other. So the probabilities of all answers add up to 1, and P(label) is
the sum over the answers that hold it. Answers form a tree, which is searched best first; the nodes of a row are fed to
the model together, as branches that share the row's keys and values (an attention mask with a line for each
token, as in tree attention: Miao et al. 2024, SpecInfer, section 4.2).
"""

import inspect
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig

from utils.core.errors import UserError
from utils.models.encoding import first_position
from utils.models.generator.label_tree import END, ON
from utils.models.generator.prompts import left_padded

# Nodes of one row that are fed at a time: bounds the memory of a pass, and the padding of rows that want few.
NODES_PER_PASS = 16
# Mass that counts as nothing: what rounding leaves of 1.
NEGLIGIBLE = 1e-9


@dataclass
class Scores:
    """Of N rows, in the written order of the labels: `decoded` 0/1 `[N, L]`, the greedy answer; `probabilities`
    `[N, L]`; `covered` `[N]`, the mass of the answers that were reached (1: probabilities are exact)."""

    decoded: np.ndarray
    probabilities: np.ndarray
    covered: np.ndarray


@dataclass
class _Branch:
    """A node of a row's search tree that has not been fed yet."""

    node: int
    mass: float  # probability of the choices that lead here
    labels: tuple[int, ...]  # that every answer from here on holds
    seen: list[int]  # places of its ancestors' tokens in the cache
    depth: int  # tokens between the prompt and its first one
    greedy: bool  # whether each choice on the way was the likeliest


@dataclass
class _Search:
    """The search of one row."""

    branches: list[_Branch] = field(default_factory=list)
    reached: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)  # answers: mass, labels
    decoded: tuple[int, ...] | None = None
    fed: int = 0

    def take(self, branch, node, logits, places):
        """Go on from a branch that has been fed.

        Args:
            logits: `[D, C]`, of the tokens that are chosen between (C), for each decision (D) of the node.
            places: where the node's tokens lie in the cache.
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

    def next_branches(self, coverage, max_nodes):
        """Take out the branches to feed next: the largest, until the rest is within 1 - coverage, and the greedy one.

        Best first would feed all of these too before it could stop, so doing it in one pass costs no more nodes.
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

    def summary(self, size):
        """`(decoded [L], probabilities [L], covered)`; an open branch counts for the labels that it is certain of."""
        decoded, probabilities = np.zeros(size, dtype=np.int8), np.zeros(size)
        decoded[list(self.decoded)] = 1
        for mass, labels in self.reached + [(branch.mass, branch.labels) for branch in self.branches]:
            probabilities[list(labels)] += mass
        return decoded, probabilities.clip(0, 1), min(1.0, sum(mass for mass, _ in self.reached))


@contextmanager
def _narrow_head(model, token_ids):
    """Let the model compute the logits of these tokens alone; gives the columns in which they then stand.

    The model's own forward runs, with whatever scaling or capping it does to logits.
    """
    head = model.get_output_embeddings()
    ids = torch.tensor(token_ids, device=head.weight.device)
    # Sharded or quantised weights have no rows to take: then all logits are computed.
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


def check_scorable(model, decoding, max_length):
    """Refuse a model whose answers cannot be scored, or decoded.

    Branches are told apart by a mask and by position ids, so the model must take both, and must look at all of
    `max_length` tokens (prompt, text and answer).

    Raises:
        UserError: for attention that takes no mask of its own or places tokens by itself (alibi), layers that keep a
            state instead of keys and values, a window that is too short, and free decoding of RoBERTa, whose positions
            transformers' `generate` counts otherwise than its training.
    """
    config = model.config.get_text_config()
    if "position_ids" not in inspect.signature(type(model).forward).parameters or getattr(config, "alibi", False):
        raise UserError(
            f"{config.model_type} models place tokens by themselves, so labels cannot be scored: use another"
        )
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_window")]
    windows = [window for window in windows if isinstance(window, int) and 0 < window < max_length]
    if windows and getattr(config, "use_sliding_window", True):
        raise UserError(
            f"the model looks back {windows[0]} tokens only, less than the {max_length} of --max_length: lower it"
        )
    if decoding == "free" and first_position(model.config) > 0:
        raise UserError(f"--decoding free does not work with {model.config.model_type} models: leave it out")
    implementation = getattr(model.config, "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        raise UserError(f"labels are scored with sdpa or eager attention, not {implementation}: leave it out")
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"a model with {', '.join(sorted(kinds))} layers cannot score labels: use another")


@torch.inference_mode()
def score_labels(model, tree, prompt, texts, pad_id, batch_size, coverage, max_nodes):
    """Score rows given as token ids of their texts, a batch of `batch_size` at a time in the order given.

    Args:
        model: causal language model, on its device, in evaluation mode.
        prompt: `utils.models.generator.prompts.Prompt`.
        texts: list of lists of token ids.
        coverage: mass of the answers to reach; 1 reaches all and makes probabilities exact, 0 decodes only.
        max_nodes: nodes of the tree to feed at most for each row; the greedy answer is followed to its end even so.

    Returns:
        `Scores`.
    """
    rows = [ids + prompt.tail + tree.nodes[tree.root].tokens for ids in texts]
    summaries = []
    with _narrow_head(model, tree.token_ids) as columns:
        shared = _run_shared(model, prompt.head)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for search in _search_batch(model, tree, shared, batch, columns, pad_id, coverage, max_nodes):
                summaries.append(search.summary(tree.size))
    if not summaries:
        return Scores(np.zeros((0, tree.size), dtype=np.int8), np.zeros((0, tree.size)), np.zeros(0))
    decoded, probabilities, covered = zip(*summaries)
    return Scores(np.array(decoded), np.array(probabilities), np.array(covered))


def _run_shared(model, head):
    """Keys and values of the prompt's head, which all rows share."""
    if not head:
        return DynamicCache()
    ids = torch.tensor([head], device=model.device)
    positions = torch.arange(len(head), device=model.device)[None] + first_position(model.config)
    return model(input_ids=ids, position_ids=positions, past_key_values=DynamicCache(), use_cache=True).past_key_values


def _search_batch(model, tree, shared, rows, columns, pad_id, coverage, max_nodes):
    """Searches `[B]` of one batch of rows."""
    device = model.device
    head_length = shared.get_seq_length()
    copies = [(keys.expand(len(rows), *[-1] * 3), values.expand(len(rows), *[-1] * 3)) for keys, values, *_ in shared]
    cache = DynamicCache(copies) if head_length else DynamicCache()
    ids, real = left_padded(rows, pad_id)
    visible = torch.cat([torch.ones(len(rows), head_length, dtype=real.dtype), real], dim=1)
    begin_at = head_length + first_position(model.config)
    positions = begin_at + (real.cumsum(dim=1) - 1).clamp(min=0)
    root = tree.nodes[tree.root]
    first = min(decision.position for decision in root.decisions)
    logits = model(
        input_ids=ids.to(device),
        attention_mask=visible.to(device),
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=len(root.tokens) - first,
    ).logits[..., columns]  # fmt: skip
    logits = logits.float().cpu().numpy()
    searches = [_Search() for _ in rows]
    next_positions = [begin_at + len(row) for row in rows]
    for search, row in zip(searches, logits):
        branch = _Branch(tree.root, 1.0, (), [], 0, True)
        search.take(branch, root, row[[decision.position - first for decision in root.decisions]], [])

    # From here on the cache holds, behind the prompts, the tokens of the nodes that were fed: `width` places.
    visible, width = visible.bool(), 0
    active = list(range(len(rows)))  # the rows of the cache
    while True:
        taken = [searches[i].next_branches(coverage, max_nodes) for i in active]
        busy = [at for at, branches in enumerate(taken) if branches]
        if not busy:
            return searches
        if len(busy) < 0.75 * len(active):  # copying the cache pays only when it gets clearly smaller
            keep = torch.tensor(busy, device=device)
            cache.batch_select_indices(keep)
            visible = visible[busy]
            active, taken = [active[at] for at in busy], [taken[at] for at in busy]
        nodes = [[tree.nodes[branch.node] for branch in branches] for branches in taken]
        count = max(sum(len(node.tokens) for node in row) for row in nodes)
        ids = np.full((len(active), count), pad_id)
        positions = np.zeros((len(active), count), dtype=np.int64)
        # Which of the nodes' tokens each token sees: its ancestors', those before it in its node, and itself.
        sees = np.zeros((len(active), count, width + count), dtype=bool)
        sees[:, np.arange(count), width + np.arange(count)] = True
        for at, (branches, row) in enumerate(zip(taken, nodes)):
            begin = 0
            for branch, node in zip(branches, row):
                end = begin + len(node.tokens)
                ids[at, begin:end] = node.tokens
                positions[at, begin:end] = next_positions[active[at]] + branch.depth + np.arange(end - begin)
                sees[at, begin:end, branch.seen] = True
                for k in range(begin + 1, end):
                    sees[at, k, width + begin : width + k] = True
                begin = end
        mask = torch.cat([visible[:, None].expand(-1, count, -1), torch.from_numpy(sees)], dim=2)[:, None].to(device)
        if model.config._attn_implementation != "sdpa":  # which alone takes yes and no
            mask = torch.where(mask, 0.0, torch.finfo(model.dtype).min).to(model.dtype)
        logits = model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=mask,
            position_ids=torch.from_numpy(positions).to(device),
            past_key_values=cache,
            use_cache=True,
        ).logits[..., columns]
        logits = logits.float().cpu().numpy()
        for at, (branches, row) in enumerate(zip(taken, nodes)):
            begin = 0
            for branch, node in zip(branches, row):
                places = list(range(width + begin, width + begin + len(node.tokens)))
                decisions = [begin + decision.position for decision in node.decisions]
                searches[active[at]].take(branch, node, logits[at, decisions], places)
                begin += len(node.tokens)
        width += count


@torch.inference_mode()
def decode_freely(model, tokenizer, prompt, texts, batch_size, max_new_tokens):
    """What the model answers when nothing holds it to valid answers: greedy texts `[N]`."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=prompt.end, pad_token_id=tokenizer.pad_token_id
    )
    answers = []
    for start in range(0, len(texts), batch_size):
        rows = [prompt.head + ids + prompt.tail for ids in texts[start : start + batch_size]]
        ids, mask = left_padded(rows, tokenizer.pad_token_id)
        output = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        for row in output[:, ids.shape[1] :].tolist():
            kept = row[: row.index(prompt.end)] if prompt.end in row else row
            answers.append(tokenizer.decode(kept, skip_special_tokens=True))
    return answers
