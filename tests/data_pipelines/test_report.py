"""Reports add up, balance, and come back from their line of JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.report import Report, Tally, total

counts = st.dictionaries(st.sampled_from(["too small", "broken JSON", "ä"]), st.integers(1, 9), max_size=3)
reports = st.builds(
    lambda written, dropped, noted: Report(
        read=written + sum(dropped.values()),
        written=written,
        dropped=dropped,
        noted=noted,
        examples={reason: tuple(f"{reason}-{n}" for n in range(min(5, count))) for reason, count in dropped.items()},
    ),
    st.integers(0, 99),
    counts,
    counts,
)


@given(st.lists(reports, max_size=5))
def test_a_sum_balances_and_counts_everything(parts: list[Report]) -> None:
    whole = total(parts)
    assert whole.balanced
    assert whole.read == sum(part.read for part in parts)
    for reason in ("too small", "broken JSON", "ä"):
        assert whole.dropped.get(reason, 0) == sum(part.dropped.get(reason, 0) for part in parts)
        assert whole.noted.get(reason, 0) == sum(part.noted.get(reason, 0) for part in parts)
    assert all(len(keys) <= 5 for keys in whole.examples.values())


@given(reports)
def test_a_report_comes_back_from_its_line(report: Report) -> None:
    line = report.to_json()
    assert "\n" not in line
    assert Report.from_json(line) == report


@given(reports, reports, reports)
def test_the_order_of_adding_does_not_matter_for_the_sum(a: Report, b: Report, c: Report) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Report() == a == Report() + a


def test_a_document_that_is_not_accounted_for_is_seen() -> None:
    tally = Tally()
    tally.read(3)
    tally.wrote()
    tally.drop("too small", "a")
    assert not tally.report().balanced
    tally.drop("too small", "b")
    tally.note("bytes lost", "s.tar", 700)
    report = tally.report()
    assert report.balanced
    assert dict(report.noted) == {"bytes lost": 700}
    assert report.examples["too small"] == ("a", "b")


def test_people_read_the_most_frequent_reason_first() -> None:
    report = Report(read=5, written=1, dropped={"rare": 1, "often": 3}, examples={"rare": ("k",)})
    assert report.to_text().splitlines() == [
        "5 documents read, 1 written, 4 dropped",
        "  dropped 3: often",
        "  dropped 1: rare  (k)",
    ]


def test_a_strangers_key_does_not_steer_the_terminal() -> None:
    tally = Tally()
    tally.read()
    tally.drop("broken JSON", "\x1b[31mred")
    assert "\x1b" not in tally.report().to_text()
    assert tally.report().examples == {"broken JSON": ("\x1b[31mred",)}
