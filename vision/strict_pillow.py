"""Pillow as it behaves by default, whatever the process around it has switched: strict about files, silent.

Two switches of Pillow and Python are global. `ImageFile.LOAD_TRUNCATED_IMAGES` turns half a file into half a picture;
`warnings` prints Pillow's remarks about files we refuse anyway. Both are set while at least one of our threads
decodes and put back when the last one is done: a lock around decoding would make threads wait for each other, and
`warnings.catch_warnings` undoes what other threads did in the meantime.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from PIL import ImageFile

__all__ = ["strict_pillow"]

_lock = threading.Lock()
_num_decoding = 0
_truncated_allowed = False
_filters: list[Any] = []
_silence: object = None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside, truncated files raise and Pillow's own warnings are not shown. Threads may overlap."""
    global _num_decoding
    with _lock:
        if _num_decoding == 0:
            _switch()
        _num_decoding += 1
    try:
        yield
    finally:
        with _lock:
            _num_decoding -= 1
            if _num_decoding == 0:
                _switch_back()


def _switch() -> None:
    global _truncated_allowed, _filters, _silence
    _truncated_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # The dot keeps a caller's own module named PIL-something out.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _filters = cast("list[Any]", warnings.filters)  # the live list, which other code may replace
    _silence = _filters[0]


def _switch_back() -> None:
    if not ImageFile.LOAD_TRUNCATED_IMAGES:  # else somebody set it meanwhile, and it is theirs
        ImageFile.LOAD_TRUNCATED_IMAGES = _truncated_allowed
    for filters in (_filters, cast("list[Any]", warnings.filters)):  # two if a thread is inside catch_warnings now
        if _silence in filters:
            filters.remove(_silence)
