"""Where and how the server listens. Plain values; the command fills them from flags and environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serving.engine.settings import EngineSettings

__all__ = ["ServerSettings"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the HTTP process needs.

    Attributes:
        port: 0 takes any free one.
        served_names: what the model is called in requests; empty: its own name.
        max_body_bytes: of one request.
        drain_seconds: how long running answers may take to finish when the server is told to stop.
    """

    engine: EngineSettings
    host: str = "127.0.0.1"
    port: int = 8000
    served_names: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    drain_seconds: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port={self.port}; give 0 (any free port) to 65535")
        if self.max_body_bytes < 1024:
            raise ValueError(f"max_body_bytes={self.max_body_bytes}; give at least 1024")

    @property
    def names(self) -> tuple[str, ...]:
        """Names the model answers to: those given, or the model's own; of a folder, its last part."""
        folder = Path(os.path.expanduser(self.engine.model))
        return self.served_names or (folder.resolve().name if folder.is_dir() else self.engine.model,)
