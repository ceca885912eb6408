"""What may be done to a text, and when two texts count as the same.

Texts go to the model raw. Hashtags and emoji are never removed: on SemEval-2018 E-c removing the hashtags costs about
5.5 points of macro-F1.
"""

import re

URL = re.compile(r"https?://\S+|www\.\S+", re.IGNORECASE)
USER = re.compile(r"(?<!\w)@\w+")
# Also right after a letter: SemEval's tweets hold line breaks as the two characters \n, so `\n#joy` stands in them.
HASHTAG_OR_USER = re.compile(r"[#@]\w+")


def normalize(text, users=False, urls=False):
    """Replace mentions by `@user` and links by `http`, as the Twitter-RoBERTa models were trained; nothing else."""
    if urls:
        text = URL.sub("http", text)
    if users:
        text = USER.sub("@user", text)
    return text


def near_duplicate_key(text):
    """The words of a text without links, mentions and hashtags, in lower case: equal for near-duplicates.

    A text of which nothing is left (hashtags only, emoji only) is its own key.
    """
    stripped = HASHTAG_OR_USER.sub(" ", URL.sub(" ", text.replace("\\n", " ")))
    return " ".join(re.findall(r"\w+", stripped.casefold())) or text.strip()
