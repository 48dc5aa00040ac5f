"""Documents brought together from their members, wherever those stand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.survey import Survey, survey
from data_pipelines.tar import END
from tests.data_pipelines.broken_shards import file, page


def surveyed(*names: str) -> Survey:
    return survey(b"".join(file(name, name) for name in names) + END, "x.tar")


def outline(whole: Survey) -> list[tuple[str, list[str]]]:
    return [(found.key, list(found.members)) for found in whole.documents]


def test_members_that_stand_apart_are_brought_together() -> None:
    whole = surveyed("a.json", "b.json", "a.0.jpg", "b.0.jpg")
    assert outline(whole) == [("a", ["json", "0.jpg"]), ("b", ["json", "0.jpg"])]
    assert [found.apart.name for found in whole.documents if found.apart] == ["a.0.jpg", "b.0.jpg"]
    assert not any(found.repeated for found in whole.documents)


def test_a_part_that_comes_again_begins_another_document() -> None:
    for between in ((), ("b.json",)):
        whole = surveyed("a.json", "a.0.jpg", *between, "a.JSON", "a.0.jpg")
        assert [(key, parts) for key, parts in outline(whole) if key == "a"] == [("a", ["json", "0.jpg"])] * 2
        assert [found.repeated for found in whole.documents if found.key == "a"] == [False, True]
        assert not any(found.apart for found in whole.documents)


def test_files_of_no_document_do_not_part_a_document() -> None:
    whole = surveyed("a.json", "README", "a.0.jpg")
    assert outline(whole) == [("a", ["json", "0.jpg"])]
    assert [stray.name for stray in whole.strays] == ["README"]
    assert whole.documents[0].apart is None


def test_documents_beside_a_tear_are_marked() -> None:
    torn = bytearray(page("a") + page("b") + page("lost") + page("c") + page("d") + END)
    torn[2 * 1024] ^= 1
    whole = survey(bytes(torn), "x.tar")
    assert [(found.key, found.beside_tear) for found in whole.documents] == [
        ("a", False),
        ("b", True),
        ("c", True),
        ("d", False),
    ]


@given(st.lists(st.sampled_from(["a.json", "a.0.jpg", "b.json", "b.0.jpg", "README"]), max_size=12))
def test_every_file_stands_in_one_document_or_is_a_stray(names: list[str]) -> None:
    whole = surveyed(*names)
    members = [member for found in whole.documents for member in found.members.values()]
    places = sorted(member.start for member in [*members, *whole.strays])
    assert places == [1024 * number for number in range(len(names))]
