"""Names taken apart as webdataset and Energon take them apart."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines.naming import MAX_KEY_BYTES, clean_key, is_portable, split_name

names = st.text("ab._/A", min_size=1, max_size=14)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c.jpg", ("a/b", "c.jpg")),
        ("dir.x/img.JPG", ("dir.x/img", "jpg")),
        ("x.tar.gz.json", ("x", "tar.gz.json")),
        ("img.0001.jpg", ("img", "0001.jpg")),
        (".hidden.jpg", None),
        ("noext", None),
        ("__meta__", None),
        ("__meta__/a.json", None),
        ("__a__b.json", ("__a__b", "json")),
    ],
)
def test_the_key_ends_at_the_first_dot_of_the_last_part(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


@pytest.mark.slow
@given(names)
def test_names_split_as_webdataset_and_energon_split_them(name: str) -> None:
    from megatron.energon.flavors.webdataset.config import skip_meta_re, split_name_re
    from webdataset.tariterators import base_plus_ext

    base = name.rpartition("/")[2]
    assume(not base.startswith(".") and not base.endswith("."))  # hidden files and empty parts: ours belong to nothing
    key, part = base_plus_ext(name)
    theirs = split_name_re.match(name)
    if skip_meta_re.match(name) or key is None:
        assert split_name(name) is None
    else:
        assert theirs is not None
        assert split_name(name) == (key, part.lower()) == (theirs[1], theirs[2].lower())


@given(st.text(max_size=200))
def test_a_clean_key_is_portable_and_clean_already(wanted: str) -> None:
    key = clean_key(wanted)
    assert is_portable(key)
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert clean_key(key) == key
    assert split_name(f"{key}.json") == (key, "json")


@given(st.lists(st.text("ab/._ é", max_size=6), unique=True, max_size=20))
def test_two_names_never_become_one_key(wanted: list[str]) -> None:
    assert len({clean_key(name) for name in wanted}) == len(wanted)


@pytest.mark.parametrize("key", ["", "a.b", "a//b", "/a", "a/", "__a", "ä", "a b", "a" * 91, "../a", "a\n"])
def test_other_keys_are_not_portable(key: str) -> None:
    assert not is_portable(key)


def test_keys_of_img2dataset_stay_as_they_are() -> None:
    assert clean_key("000010042") == "000010042"
    assert re.fullmatch(r"photo_1-[0-9a-f]{8}", clean_key("photo 1"))
