"""Pieces of text without meaning, told by emoji, hashtags, addresses and words nobody can say; they are left out.

Kosmos-1 names these signs and no thresholds (appendix B.1.3); the tenth is Gopher's for symbols (table A1), and what
makes a word unsayable is ours. Words in other than Latin letters are never called gibberish.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from data_pipelines.rules.rule import Candidate, Verdict, keep_texts

__all__ = ["emoji", "gibberish", "hashtags", "urls"]

_EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf]")
_HASHTAG = re.compile(r"#\w")
_URL = re.compile(r"https?://|www\.\w", re.IGNORECASE)
_LATIN_WORD = re.compile(r"[a-z]+")
_MIXED = re.compile(r"(?=(?:.*[0-9]){2})(?=(?:.*[a-z]){2})[a-z0-9]{6,}")  # a hash or an id: letters among digits
_CONSONANTS = re.compile(r"[^aeiouy]{7}")  # "catchphrase" has six in a row
_MAX_LETTERS = 35
_EDGES = ".,;:!?\"'()[]{}*_`#<>|/\\“”‘’«»-"


def emoji(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pieces with more emoji a word."""
    return keep_texts(candidate, lambda text: len(_EMOJI.findall(text)) <= threshold * len(text.split()))


def hashtags(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pieces of which a larger share of words are hashtags."""
    return keep_texts(candidate, lambda text: _share(text, lambda word: bool(_HASHTAG.match(word))) <= threshold)


def urls(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pieces of which a larger share of words are addresses of the web."""
    return keep_texts(candidate, lambda text: _share(text, lambda word: bool(_URL.search(word))) <= threshold)


def gibberish(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pieces of which a larger share of words cannot be words."""
    return keep_texts(candidate, lambda text: _share(text, _is_unsayable) <= threshold)


def _share(text: str, is_bad: Callable[[str], bool]) -> float:
    words = text.split()
    return sum(map(is_bad, words)) / max(1, len(words))


def _is_unsayable(word: str) -> bool:
    plain = word.strip(_EDGES).lower()
    if not plain.isascii():  # accents off: a vowel stays a vowel
        plain = "".join(letter for letter in unicodedata.normalize("NFD", plain) if not unicodedata.combining(letter))
    if not _LATIN_WORD.fullmatch(plain):
        return bool(_MIXED.fullmatch(plain))
    voiceless = len(plain) >= 5 and not re.search("[aeiouy]", plain)
    return voiceless or len(plain) > _MAX_LETTERS or bool(_CONSONANTS.search(plain))
