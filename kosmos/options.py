"""How to continue a prompt: every option, checked once, for Python, the command and the server. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypedDict

__all__ = ["GenerationFields", "GenerationOptions"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """One request's wishes; names and meanings are the field's.

    Attributes:
        max_new_tokens: tokens to add at most.  min_new_tokens: the end token is forbidden before this many.
        temperature: 0 is greedy.  top_k: 0 is off.  top_p, min_p: nucleus and relative-floor sampling, in 0..1.
        repetition_penalty: > 1 divides positive and multiplies negative logits of tokens seen so far (CTRL).
        no_repeat_ngram_size: no n-gram of this size twice; 0 is off.
        num_beams: 1 samples or is greedy; more is beam search, which needs temperature 0.
        length_penalty: beams rank by log-probability / length ** length_penalty.
        stop: strings that end the answer; they are not part of it.
        seed: of this request's own generator; None draws one.
        logprobs: alternatives returned for each token beside the chosen one.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int = 0

    def __post_init__(self) -> None:
        """Raises: ValueError that names the option, its value and what it may be."""
        stop: object = self.stop
        if isinstance(stop, list):  # people write lists; options are keys of groups and must be hashable
            object.__setattr__(self, "stop", tuple(stop))
        _check_types(self)
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "min_new_tokens": (0 <= self.min_new_tokens <= self.max_new_tokens, "between 0 and max_new_tokens"),
            "temperature": (0.0 <= self.temperature <= 100.0, "between 0 and 100"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0, at most 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "between 0 and 1"),
            "repetition_penalty": (0.0 < self.repetition_penalty <= 100.0, "above 0, at most 100"),
            "no_repeat_ngram_size": (self.no_repeat_ngram_size >= 0, "0 (off) or more"),
            "num_beams": (1 <= self.num_beams <= 64, "between 1 and 64"),
            "length_penalty": (-10.0 <= self.length_penalty <= 10.0, "between -10 and 10"),
            "stop": (all(self.stop), "a tuple of non-empty strings"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "None, or 0 to 2**63 - 1"),
            "logprobs": (0 <= self.logprobs <= 20, "between 0 and 20"),
        }
        for name, (good, range_) in checks.items():
            if not good:
                raise ValueError(f"{name}={getattr(self, name)!r}; give {range_}")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError("num_beams > 1 is a search and needs temperature=0; set one of them back")


def _check_types(options: GenerationOptions) -> None:
    """Raises: ValueError for a value of another type than its field says; a whole number may stand for a fraction."""
    for entry in fields(options):
        value = getattr(options, entry.name)
        if entry.name == "stop":
            good = isinstance(value, tuple) and all(isinstance(string, str) for string in value)
        elif entry.name == "seed" and value is None:
            good = True
        else:
            good = isinstance(value, int | float if entry.type == "float" else int) and not isinstance(value, bool)
        if not good:
            kinds = {"stop": "a tuple of strings", "seed": "a whole number or None"}
            wanted = kinds.get(entry.name, "a number" if entry.type == "float" else "a whole number")
            raise ValueError(f"{entry.name}={value!r}; give {wanted}")


class GenerationFields(TypedDict, total=False):
    """The same options as keyword arguments, each optional."""

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    num_beams: int
    length_penalty: float
    stop: tuple[str, ...]
    seed: int | None
    logprobs: int
