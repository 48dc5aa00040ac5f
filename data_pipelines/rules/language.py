"""Which language a text is in, by py3langid (97 languages, a naive Bayes model that comes with the package).

It is sure of a paragraph and guesses at a few words: use it on pages and texts, not on short captions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from data_pipelines.rules.rule import Candidate, Verdict

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

__all__ = ["LANGUAGES", "Guess", "guess_language", "in_language"]

LANGUAGES = {
    "english": "en",
    "chinese": "zh",
    "dutch": "nl",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
}
"""Rule names and their ISO 639-1 codes."""
MAX_CHARACTERS = 5_000  # a longer text is no clearer


class Guess(NamedTuple):
    """ISO 639-1 code and how probable it is, 0..1."""

    code: str
    probability: float


def guess_language(text: str) -> Guess:
    """The most probable language of a text. Raises: ValueError without the extra `data`."""
    code, probability = _identifier().classify(text[:MAX_CHARACTERS])
    return Guess(str(code), float(probability))


def in_language(candidate: Candidate, threshold: float, *, code: str) -> Verdict:
    """Drop texts that are of another language, or less probably of this one."""
    guess = guess_language(candidate.text)
    return candidate.document if guess.code == code and guess.probability >= threshold else f"language is not {code}"


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ValueError("telling languages needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
