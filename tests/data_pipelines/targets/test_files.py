"""Pictures land under the output's folder or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.errors import DocumentError
from data_pipelines.targets.files import put_picture
from data_pipelines.targets.target import EncodedPicture, Place


def test_a_picture_is_found_under_the_name_it_was_given(tmp_path: Path) -> None:
    name = put_picture(Place(tmp_path, "set-0", 0), "deep/key", 3, EncodedPicture(b"picture", "jpg"))
    assert name == "images/set-0/deep/key.3.jpg"
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"picture"]
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("key", ["../key", "/key", "a/../../key", "a.b", ""])
def test_a_key_that_could_lead_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DocumentError, match="key is not portable"):
        put_picture(Place(tmp_path / "out", "set-0", 0), key, 0, EncodedPicture(b"picture", "jpg"))
    assert not list(tmp_path.iterdir())
