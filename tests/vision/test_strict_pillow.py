"""Pillow's global switches neither change what we open nor are changed by it."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.vision.pictures import ALL_KINDS, drawn, encoded
from vision.image import open_image
from vision.strict_pillow import strict_pillow


def talkative_tiff() -> bytes:
    """A whole picture whose tags make Pillow warn: one tag has two values where it should have one."""
    data = bytearray(encoded(drawn(), "TIFF", tiffinfo={305: "x" * 40}))
    directory = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        place = directory + 2 + 12 * entry
        if struct.unpack_from("<H", data, place)[0] == 305:
            struct.pack_into("<I", data, place + 8, 0x7FFFFFFF)
    return bytes(data)


@pytest.mark.parametrize("allowed", [False, True])
def test_half_a_file_is_refused_whatever_pillow_was_told(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
    for file_format, options in ALL_KINDS:
        data = encoded(drawn(), file_format, **options)
        assert open_image(data).shape == (30, 40, 3)
        with pytest.raises(ValueError, match="cut short"):
            open_image(data[: len(data) * 3 // 4])
        assert ImageFile.LOAD_TRUNCATED_IMAGES is allowed


def test_a_lazily_opened_pil_image_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(drawn(), "JPEG")
    with pytest.raises(ValueError, match="cut short"):
        open_image(Image.open(io.BytesIO(data[: len(data) * 3 // 4])))


def test_pillows_warnings_are_not_shown_and_others_still_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        open_image(talkative_tiff())
        assert list(warnings.filters) == before
        with strict_pillow(), pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


def test_pillow_does_warn_about_that_file_when_asked_directly() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(talkative_tiff())).load()
    assert caught


def test_overlapping_threads_leave_the_switches_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    first_is_inside, second_is_inside, first_has_left = (threading.Event() for _ in range(3))

    def first() -> None:
        with strict_pillow():
            first_is_inside.set()
            assert second_is_inside.wait(10)
        first_has_left.set()

    def second() -> bool:
        assert first_is_inside.wait(10)
        with strict_pillow():
            second_is_inside.set()
            assert first_has_left.wait(10)
            return ImageFile.LOAD_TRUNCATED_IMAGES

    with ThreadPoolExecutor(2) as threads:
        left, stayed = threads.submit(first), threads.submit(second)
        left.result(20)
        assert stayed.result(20) is False
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert list(warnings.filters) == before


def test_many_threads_open_the_same_pictures() -> None:
    files = [encoded(drawn(seed=seed), "PNG") for seed in range(16)]
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(open_image, files * 4))
    for index, picture in enumerate(opened):
        assert np.array_equal(picture, drawn(seed=index % 16))


def test_a_switch_set_meanwhile_by_somebody_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with strict_pillow():
        ImageFile.LOAD_TRUNCATED_IMAGES = True
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_filters_installed_around_or_inside_another_context_leave_nothing_behind() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings():
        block = strict_pillow()
        block.__enter__()
    block.__exit__(None, None, None)
    assert list(warnings.filters) == before
    block = strict_pillow()
    block.__enter__()
    with warnings.catch_warnings():
        block.__exit__(None, None, None)
    assert list(warnings.filters) == before
