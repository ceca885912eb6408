"""Normalising texts, and deciding when two texts count as the same.

Texts reach the model raw unless asked. Hashtags and emoji are never removed: removing the hashtags of SemEval-2018 E-c
costs about 5.5 points of macro-F1.
"""

from __future__ import annotations

import re

URL = re.compile(r"https?://\S+|www\.\S+", re.IGNORECASE)
USER = re.compile(r"(?<!\w)@\w+")
# No (?<!\w) here: SemEval's tweets write a line break as the two characters \n, as in `\n#joy`.
HASHTAG_OR_USER = re.compile(r"[#@]\w+")


def normalize(text: str, users: bool = False, urls: bool = False) -> str:
    """Replace mentions by `@user` and links by `http`, as in the training data of the Twitter-RoBERTa models.

    Args:
        text: the raw text.
        users: whether to replace mentions.
        urls: whether to replace links.
    """
    if urls:
        text = URL.sub("http", text)
    if users:
        text = USER.sub("@user", text)
    return text


def near_duplicate_key(text: str) -> str:
    """The words of a text in lower case, without links, mentions and hashtags: equal for near-duplicates.

    A text that consists of nothing else (hashtags only, emoji only) is its own key.
    """
    stripped = HASHTAG_OR_USER.sub(" ", URL.sub(" ", text.replace("\\n", " ")))
    return " ".join(re.findall(r"\w+", stripped.casefold())) or text.strip()
