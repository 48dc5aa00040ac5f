"""What a bench prints: ratios above 1 mean that ours is better, for rates and for times."""

import json

from kosmos.bench.figure import Figure, Unit, table


def figure(unit: Unit, ours: float, peer: float, limit: float) -> Figure:
    return Figure(
        bench="decode",
        case="a-case",
        unit=unit,
        ours=ours,
        peers={"them": peer},
        limit=limit,
        spread={"ours": (1, 3)},
    )


def test_a_line_of_json_holds_the_figure_its_ratio_and_its_share() -> None:
    assert json.loads(figure("tokens/s", 8.0, 4.0, 10.0).to_json()) == {
        "bench": "decode", "case": "a-case", "unit": "tokens/s", "ours": 8.0, "peers": {"them": 4.0},
        "ratio": {"them": 2.0}, "limit": 10.0, "share_of_limit": 0.8, "spread": {"ours": [1, 3]},
    }  # fmt: skip


def test_a_shorter_time_is_better() -> None:
    record = json.loads(figure("s", 2.0, 3.0, 1.0).to_json())
    assert record["ratio"] == {"them": 1.5}
    assert record["share_of_limit"] == 0.5


def test_the_table_names_every_peer_and_limit() -> None:
    text = table([figure("tokens/s", 8.0, 4.0, 10.0)])
    assert "a-case" in text
    assert "them" in text
    assert "limit" in text
    assert "2.00" in text
