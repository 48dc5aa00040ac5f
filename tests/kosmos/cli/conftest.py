"""A small random model on disk, and the command as a process."""

from __future__ import annotations

from tests.serving.conftest import checkpoint

__all__ = ["checkpoint"]  # the server's tests use the same
