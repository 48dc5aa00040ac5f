"""KosmosConfig: every number that decides what a model is, frozen, JSON in and out. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from kosmos.transformer.config import DecoderConfig, ExpertsConfig
from vision.config import ResamplerConfig, TowerConfig

__all__ = ["FORMAT_VERSION", "KosmosConfig", "TokenizerConfig"]

FORMAT_VERSION = 1
NESTED = {"experts": ExpertsConfig}  # fields that hold a configuration of their own, or null
Part = TypeVar("Part", DecoderConfig, ExpertsConfig, TowerConfig, ResamplerConfig, "TokenizerConfig")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which special tokens follow the SentencePiece words: Kosmos-1's, or Kosmos-2's with boxes.

    Attributes:
        num_words: SentencePiece pieces (64,000 in the published file); special tokens start after the fairseq offset.
    """

    specials: Literal["kosmos1", "kosmos2"]
    num_words: int = 64_000


@dataclass(frozen=True, kw_only=True)
class KosmosConfig:
    """A Kosmos: an eye, a resampler, a decoder and the words they share."""

    name: str
    tower: TowerConfig
    resampler: ResamplerConfig
    decoder: DecoderConfig
    tokenizer: TokenizerConfig

    def to_json(self) -> str:
        """Every field, with `format_version`, as indented JSON."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> KosmosConfig:
        """Read what `to_json` wrote.

        Raises: ValueError if the text is no JSON object, of another format version, or has unknown or missing fields.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"config is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError("config is not a JSON object")
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"config has format_version {version!r}; this release reads {FORMAT_VERSION}")
        parts = {
            "tower": TowerConfig,
            "resampler": ResamplerConfig,
            "decoder": DecoderConfig,
            "tokenizer": TokenizerConfig,
        }
        missing = [name for name in ("name", *parts) if name not in values]
        unknown = sorted(set(values) - {"name", *parts})
        if missing or unknown:
            raise ValueError(f"config: missing fields {missing}, unknown fields {unknown}")
        return KosmosConfig(
            name=str(values["name"]),
            tower=_part(TowerConfig, values["tower"]),
            resampler=_part(ResamplerConfig, values["resampler"]),
            decoder=_part(DecoderConfig, values["decoder"]),
            tokenizer=_part(TokenizerConfig, values["tokenizer"]),
        )


def _part(kind: type[Part], values: Mapping[str, Any]) -> Part:
    if not isinstance(values, Mapping):
        raise ValueError(f"config of {kind.__name__} is {str(values)[:80]!r}; it must be an object of named fields")
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"config of {kind.__name__} has unknown fields {unknown}; known: {sorted(known)}")
    try:
        return kind(**{name: _field(name, value) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"config of {kind.__name__}: {error}") from None


def _field(name: str, value: Any) -> Any:
    if name in NESTED and value is not None:
        return _part(NESTED[name], value)
    return tuple(value) if isinstance(value, list) else value
