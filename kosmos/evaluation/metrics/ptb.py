"""Words as the caption metrics count them: Penn Treebank tokens, lower case, punctuation dropped. No Java.

Source: the behaviour of the COCO caption evaluation, which runs Stanford's tokeniser and drops a list of punctuation
tokens. Brackets stay as `-lrb-` and `-rrb-`, since that list knows only their upper-case names.
"""

from __future__ import annotations

import re

__all__ = ["ptb_tokens"]

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = frozenset(("''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", ";"))
_QUOTES = str.maketrans(
    {"\u2019": "'", "\u2018": "`", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u2013": "--", "\u2014": "--"}
)
_TWO_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
}  # fmt: skip
_ABBREVIATIONS = [
    "mr",
    "mrs",
    "ms",
    "dr",
    "prof",
    "sr",
    "jr",
    "st",
    "mt",
    "ft",
    "gen",
    "col",
    "lt",
    "sgt",
    "capt",
    "rev",
    "hon",
    "gov",
    "sen",
    "rep",
    "adm",
    "maj",
    "cpl",
    "pvt",
    "inc",
    "ltd",
    "co",
    "corp",
    "bros",
    "vs",
    "etc",
    "dept",
    "univ",
    "ave",
    "blvd",
    "rd",
    "jan",
    "feb",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
    "sept",
    "oct",
    "nov",
    "dec",
]
_TOKEN = re.compile(
    r"""
      https?://\S+ | www\.\S+
    | [\w.+-]+@[\w-]+\.[\w.]+                              # a mail address
    | (?-i:[A-Z]+(?:[+&][A-Z]+)+)                          # AT&T, B&W
    | \#[a-z_]\w* | [\#%&@*=+<>~^|\\/$]                   # a hashtag; marks that stand alone
    | \d+(?:[.,:/-]\d+)+                                   # 1,000  3.5  10:30  1/2
    | (?:[a-z]\.){2,}                                      # u.s.
    | (?:"""
    + "|".join(_ABBREVIATIONS)
    + r""")\.(?=\s|$)
    | '(?:s|m|d|re|ve|ll|em)\b | n't\b                     # 's after its word
    | o'clock\b | ma'am\b | [dol]'[a-z]\w*                # o'neill
    | \w+(?:[-/]\w+)*                                      # words, with their inner hyphens
    | \.{3,5} | -{2,} | [!?]+ | ``|'' | [()\[\]{}] | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(\w+?)(n't)\b", re.IGNORECASE)
_CLITIC = re.compile(r"(?<=\w)('(?:s|m|d|re|ve|ll))\b", re.IGNORECASE)
_ELLIPSIS_OR_DASH = re.compile(r"\.{3,}|-{2,}")


def ptb_tokens(caption: str) -> list[str]:
    """The tokens of one caption.

    Example: `ptb_tokens("The man's dog isn't here.")` is `["the", "man", "'s", "dog", "is", "n't", "here"]`.
    """
    text = _CLITIC.sub(r" \1", _NEGATED.sub(r"\1 \2", caption.translate(_QUOTES)))
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0].lower()
        tokens.extend(_TWO_WORDS.get(token, (_BRACKETS.get(token, token.replace("/", r"\/")),)))
    return [token for token in tokens if token not in _DROPPED and not _ELLIPSIS_OR_DASH.fullmatch(token)]
