"""How the engine is started: which model, how, and how many may wait for it. Plain values, sent to its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Dtype", "EngineSettings", "Quantize"]

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]
Quantize: TypeAlias = Literal["int4", "int8"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine process needs.

    Attributes:
        model: name, folder or hub id, as `kosmos.load` takes it; device, dtype, quantize likewise.
        max_waiting: requests that may wait while one is answered; more are told to come back later.
    """

    model: str = "tiny"
    device: str = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize | None = None
    max_waiting: int = 64

    def __post_init__(self) -> None:
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting={self.max_waiting}; give 0 or more")
