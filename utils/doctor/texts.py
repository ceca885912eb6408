"""What texts are like: lengths, scripts, letters, and signs that a model does not know."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.shown import printable
from utils.doctor.bars import Mean, some_rows

if TYPE_CHECKING:  # loading it takes torch
    from transformers import PreTrainedTokenizerBase

MOST_TEXTS = 5000  # looked at, of more: a second of work
LETTERS_OF_A_TEXT = 2000  # from its start, that are looked up in a vocabulary; and whose script and runs are counted
LETTERS_COUNTED = 500
# Runs of three letters that count as familiar. The commonest few hundred tell one language from another: Cavnar and
# Trenkle, N-Gram-Based Text Categorization, SDAIR 1994.
PROFILE = 300
SHOWN_SIGNS = 8
COUNTED = ("unknown_signs", "scripts")


@dataclass
class Unknown:
    """Signs that a tokenizer does not know.

    Args:
        rows: numbers of the texts with an unknown token.
        signs: in how many texts each unknown sign stands, the commonest first.
    """

    rows: np.ndarray
    signs: dict[str, int]

    def describe(self) -> str:
        """The commonest signs: `😂 in 31, 🙏 in 12 and others`."""
        shown = [f"{printable(sign)} in {count:,}" for sign, count in list(self.signs.items())[:SHOWN_SIGNS]]
        more = " and others" if len(self.signs) > len(shown) else ""
        return f"{', '.join(shown)}{more}" if shown else "words that are too long for it"


def find_unknown(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Unknown:
    """The signs of texts `[N]` that a tokenizer does not know.

    A sign may take the word around it along: BERT makes one unknown token of "great😂".
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or not texts:
        return Unknown(np.arange(0), {})
    texts = [text[:LETTERS_OF_A_TEXT] for text in texts]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    rows = np.array([i for i, row in enumerate(ids) if unknown in row], dtype=np.int64)
    signs = sorted({sign for i in rows for sign in texts[i] if not sign.isspace()})
    alone = tokenizer(signs, add_special_tokens=False, verbose=False)["input_ids"] if signs else []
    strange = {sign for sign, row in zip(signs, alone) if unknown in row}
    counts = Counter(sign for i in rows for sign in strange.intersection(texts[i]))
    return Unknown(rows, dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))


@lru_cache(maxsize=100_000)
def _script_of(sign: str) -> str:
    """The script of a letter by its Unicode name, such as LATIN, CYRILLIC, CJK; empty for other signs."""
    return unicodedata.name(sign, "").split(" ")[0].split("-")[0] if sign.isalpha() else ""


def script_of(text: str) -> str:
    """The script of most letters of a text; empty without letters."""
    counts = Counter(_script_of(sign) for sign in text[:LETTERS_COUNTED])
    del counts[""]
    return counts.most_common(1)[0][0] if counts else ""


def triples(text: str) -> Counter[str]:
    """Runs of three letters and blanks of a text, in lower case, without other signs."""
    letters = "".join(sign if sign.isalpha() else " " for sign in text[:LETTERS_COUNTED].casefold())
    padded = f" {' '.join(letters.split())} "
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))


@dataclass
class TextFigures:
    """What some texts are like, in figures that can be compared with those of others.

    Args:
        rows: texts looked at.
        unknown_rows: with a token that the model does not know.
        unknown_signs: in how many texts each unknown sign stands.
        scripts: texts by the script of most of their letters.
        lengths: mean of the logarithm of the letters and signs.
        familiar: mean share of a text's triples of letters that are among those of `profile`.
        profile: the commonest triples of the training texts.
    """

    rows: int
    unknown_rows: int
    unknown_signs: dict[str, int]
    scripts: dict[str, int]
    lengths: Mean
    familiar: Mean
    profile: list[str]

    @classmethod
    def of(
        cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, profile: list[str] | None = None
    ) -> TextFigures:
        """Figures of texts, of a sample where there are many.

        Args:
            texts: `[N]`.
            tokenizer: of the model.
            profile: of the training texts; left out: these are the training texts.
        """
        texts = [texts[i] for i in some_rows(len(texts), MOST_TEXTS)]
        unknown = find_unknown(texts, tokenizer)
        runs = [triples(text) for text in texts]
        if profile is None:
            total: Counter[str] = Counter()
            for counts in runs:
                total.update(counts)
            profile = sorted(total, key=lambda run: (-total[run], run))[:PROFILE]
        known = set(profile)
        shares = [sum(n for run, n in one.items() if run in known) / one.total() for one in runs if one.total() > 2]
        scripts = Counter(filter(None, map(script_of, texts)))
        signs = dict(list(unknown.signs.items())[:20])
        letters = np.array([max(1, len(text)) for text in texts])
        lengths, familiar = Mean.of(np.log(letters)), Mean.of(np.array(shares))
        return cls(len(texts), len(unknown.rows), signs, dict(scripts), lengths, familiar, profile)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TextFigures:
        """Figures as `asdict` gives them.

        Raises:
            TypeError, ValueError, KeyError: for what it does not give.
        """
        lengths, familiar = (Mean(*map(float, content[name].values())) for name in ("lengths", "familiar"))
        counts = [{str(name): int(count) for name, count in content[kind].items()} for kind in COUNTED]
        return cls(
            int(content["rows"]), int(content["unknown_rows"]), *counts, lengths, familiar, list(content["profile"])
        )
