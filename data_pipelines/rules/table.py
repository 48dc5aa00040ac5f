"""All rules by name, with their thresholds and sources; and the sets that `--set` names, in the order they are applied.

A new rule is a function in a file of its kind and an entry here. Cheap rules stand first within a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from data_pipelines.rules import captions, interleaved, language, pictures, quality, repetition, spam
from data_pipelines.rules.rule import Rule

__all__ = ["RULES", "SETS", "Thresholds", "choose_rules"]

Thresholds = tuple[tuple[str, float], ...]
"""Rules to apply, in order: name and threshold."""

_KOSMOS = "Kosmos-1, 3.1 and B.1.3"
_KOSMOS_OURS = "Kosmos-1, B.1.3; threshold ours"
_CAPTIONS = "Kosmos-1, B.1.2"
_DATACOMP = "DataComp, basic filtering"
_GOPHER = "Gopher, A.1.1"
_OURS = "ours"

RULES: Mapping[str, Rule] = {
    "readable": Rule(judge=pictures.readable, threshold=1, drops="pictures that cannot be decoded", source=_OURS),
    "min-side": Rule(judge=pictures.min_side, threshold=64, drops="pictures with a side under {} px", source=_KOSMOS),
    "single-color": Rule(
        judge=pictures.single_color,
        threshold=8,
        drops="pictures whose levels (0..255) differ by {} at most",
        source=_KOSMOS_OURS,
    ),
    "max-aspect": Rule(
        judge=pictures.max_aspect, threshold=3, drops="pictures more than {} times as long as wide", source=_DATACOMP
    ),
    "min-pictures": Rule(
        judge=pictures.min_pictures, threshold=1, drops="documents with fewer pictures than {}", source=_OURS
    ),
    "max-pictures": Rule(judge=pictures.max_pictures, threshold=5, drops="pictures after the first {}", source=_KOSMOS),
    "one-picture": Rule(
        judge=interleaved.one_picture,
        threshold=0.5,
        drops="documents with exactly one picture, with probability {}",
        source=_KOSMOS,
    ),
    "interspersed": Rule(
        judge=interleaved.interspersed,
        threshold=2,
        drops="documents whose words and pictures touch at fewer places than {}",
        source=_KOSMOS_OURS,
    ),
    "emoji": Rule(judge=spam.emoji, threshold=0.1, drops="texts of more emoji a word than {}", source=_KOSMOS_OURS),
    "hashtags": Rule(
        judge=spam.hashtags, threshold=0.1, drops="texts of more hashtags a word than {}", source=_KOSMOS_OURS
    ),
    "urls": Rule(judge=spam.urls, threshold=0.1, drops="texts of more addresses a word than {}", source=_KOSMOS_OURS),
    "gibberish": Rule(
        judge=spam.gibberish,
        threshold=0.3,
        drops="texts of which more than {} of the words cannot be words",
        source=_KOSMOS_OURS,
    ),
    "special-tags": Rule(
        judge=captions.special_tags,
        threshold=0,
        drops="captions with more tags like <PERSON> than {}",
        source=_CAPTIONS,
    ),
    "stated-size": Rule(
        judge=captions.stated_size,
        threshold=0,
        drops="pairs whose stated width or height is no number or under {} px",
        source="Kosmos-1's LAION loader (200 px there)",
    ),
    "min-words": Rule(
        judge=captions.min_words, threshold=3, drops="documents of fewer words than {}", source=_DATACOMP
    ),
    "max-words": Rule(judge=captions.max_words, threshold=256, drops="documents of more words than {}", source=_OURS),
    "min-characters": Rule(
        judge=captions.min_characters, threshold=6, drops="documents of fewer characters than {}", source=_DATACOMP
    ),
    "repeated-words": Rule(
        judge=captions.repeated_words,
        threshold=0.5,
        drops="captions of which one word makes up more than {}",
        source="Conceptual Captions, 3; threshold ours",
    ),
    "min-word-length": Rule(
        judge=quality.min_word_length, threshold=3, drops="texts with a mean word under {} letters", source=_GOPHER
    ),
    "max-word-length": Rule(
        judge=quality.max_word_length, threshold=10, drops="texts with a mean word over {} letters", source=_GOPHER
    ),
    "symbols": Rule(
        judge=quality.symbols, threshold=0.1, drops="texts of more # or ellipses a word than {}", source=_GOPHER
    ),
    "bullets": Rule(
        judge=quality.bullets, threshold=0.9, drops="texts of which more lines than {} are bullets", source=_GOPHER
    ),
    "ellipses": Rule(
        judge=quality.ellipses, threshold=0.3, drops="texts of which more lines than {} end in ...", source=_GOPHER
    ),
    "alphabetic": Rule(
        judge=quality.alphabetic,
        threshold=0.8,
        drops="texts of which fewer words than {} hold a letter",
        source=_GOPHER,
    ),
    "stop-words": Rule(
        judge=quality.stop_words,
        threshold=2,
        drops="texts with fewer of 8 common English words than {}",
        source=_GOPHER,
    ),
    "duplicate-lines": Rule(
        judge=repetition.duplicate_lines,
        threshold=0.3,
        drops="texts of which more lines than {} stood before",
        source=_GOPHER,
    ),
    "duplicate-paragraphs": Rule(
        judge=repetition.duplicate_paragraphs,
        threshold=0.3,
        drops="texts of which more paragraphs than {} stood before",
        source=_GOPHER,
    ),
    **{
        f"top-{n}-gram": Rule(
            judge=partial(repetition.top_n_gram, n=n),
            threshold=share,
            drops=f"texts of which the commonest {n} words in a row make up more than {{}}",
            source=_GOPHER,
        )
        for n, share in ((2, 0.20), (3, 0.18), (4, 0.16))
    },
    **{
        f"duplicate-{n}-grams": Rule(
            judge=partial(repetition.duplicate_n_grams, n=n),
            threshold=share,
            drops=f"texts of which runs of {n} words that stood before make up more than {{}}",
            source=_GOPHER,
        )
        for n, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    },
    **{
        name: Rule(
            judge=partial(language.in_language, code=code),
            threshold=0.5,
            drops=f"texts that are {name.title()} with a probability under {{}}",
            source=_KOSMOS_OURS if code == "en" else _OURS,
        )
        for name, code in language.LANGUAGES.items()
    },
}

_MEANING = ("emoji", "hashtags", "urls", "gibberish")
_GOPHER_QUALITY = (
    "min-word-length",
    "max-word-length",
    "symbols",
    "bullets",
    "ellipses",
    "alphabetic",
    "stop-words",
)
_GOPHER_REPETITION = tuple(name for name in RULES if name.startswith(("duplicate-", "top-")))

SETS: Mapping[str, Mapping[str, float | None]] = {
    "interleaved": dict.fromkeys(
        (
            *_MEANING,
            "min-pictures",
            "readable",
            "min-side",
            "single-color",
            "max-pictures",
            "interspersed",
            "one-picture",
            "english",
        )
    ),
    "captions": dict.fromkeys(
        (
            "special-tags",
            "stated-size",
            "min-words",
            "min-characters",
            "max-words",
            "repeated-words",
            "readable",
            "min-side",
            "max-aspect",
            "single-color",
            "min-pictures",
        )
    ),
    "text": {
        "min-words": 50,
        "max-words": 100_000,
        **dict.fromkeys((*_GOPHER_QUALITY, *_GOPHER_REPETITION, "english")),
    },
}
"""Rules of each set, with a threshold where it is another than the rule's default."""


def choose_rules(name: str, *, rules: Mapping[str, float | None] = {}, without: Sequence[str] = ()) -> Thresholds:
    """The rules of a set, those of `rules` added (None: at the default) or given another threshold, `without` left out.

    Raises: ValueError for a name that is not in the tables.
    """
    if name not in SETS:
        raise ValueError(f"unknown set of rules {name!r}; known sets: {', '.join(SETS)}")
    wanted = {**SETS[name], **rules}
    if unknown := [rule for rule in (*wanted, *without) if rule not in RULES]:
        raise ValueError(f"unknown rule {unknown[0]!r}; known rules: {', '.join(RULES)}")
    if unused := [rule for rule in without if rule not in wanted]:
        raise ValueError(f"rule {unused[0]!r} is not in the set {name!r}; its rules: {', '.join(wanted)}")
    chosen = {rule: threshold for rule, threshold in wanted.items() if rule not in without}
    return tuple((rule, RULES[rule].threshold if value is None else value) for rule, value in chosen.items())
