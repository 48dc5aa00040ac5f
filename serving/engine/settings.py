"""How the engine is started: which model, how, and how much may be asked of it. Plain values, sent to its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kosmos.options import GenerationOptions

__all__ = ["Dtype", "EngineSettings", "Quantize", "excess_of_beams"]

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]
Quantize: TypeAlias = Literal["int4", "int8"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine process needs.

    Attributes:
        model: name, folder or hub id, as `kosmos.load` takes it; device, dtype, quantize likewise.
        max_waiting: requests that may wait while one is answered; more are told to come back later.
        max_beam_tokens: tokens that the beams of one request may hold together, each with its prompt and its answer.
    """

    model: str = "tiny"
    device: str = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize | None = None
    max_waiting: int = 64
    max_beam_tokens: int = 8192

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("no model is named; give `tiny`, a checkpoint or run folder, or a hub id")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting={self.max_waiting}; give 0 or more")
        if self.max_beam_tokens < 0:
            raise ValueError(f"max_beam_tokens={self.max_beam_tokens}; give 0 (no beam search) or more")


def excess_of_beams(options: GenerationOptions, *, prompt_tokens: int, most: int) -> str | None:
    """What is wrong with a beam search that may come to hold more than `most` tokens; None where nothing is."""
    longest = prompt_tokens + options.max_new_tokens
    if options.num_beams == 1 or options.num_beams * longest <= most:
        return None
    return (
        f"{options.num_beams} beams of up to {longest} tokens, prompt and answer, are {options.num_beams * longest}"
        f" tokens; at most {most} are searched here; ask for fewer beams or a smaller max_tokens"
    )
