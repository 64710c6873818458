"""Splits and dividends from a file to adjusted closes."""

from __future__ import annotations

from hfthot_platform.domain.market.adjust import adjusted_closes

MAPPING = {"table": "market.corporate_actions", "venue": "us_equity"}
ACTIONS = "date,symbol,kind,ratio,amount\n2024-01-03,KO,split,2,\n2024-01-04,KO,dividend,,1\n"


def test_closes_are_adjusted_for_the_actions_of_a_file(landing) -> None:
    landing.drop("a.csv", ACTIONS, mapping=MAPPING)
    closes = "Date,Close\n2024-01-02,100\n2024-01-03,50\n2024-01-04,49\n"
    landing.drop("c.csv", closes, mapping={"table": "market.closes", "venue": "us_equity", "symbol": "KO"})
    assert {outcome.status for outcome in landing.run()} == {"published"}
    rows = [landing.lake.table(name).scan().collect() for name in ("market.closes", "market.corporate_actions")]
    found = adjusted_closes(*rows)
    assert found["adjusted_close"].round(9).to_list() == [49.0, 49.0, 49.0]
    assert landing.lake.table("market.corporate_actions").scan().collect()["year"].to_list() == [2024, 2024]


def test_an_action_without_its_value_is_quarantined_and_one_seen_before_is_a_duplicate(landing) -> None:
    landing.drop("a.csv", ACTIONS, mapping=MAPPING)
    landing.run()
    landing.drop("b.csv", ACTIONS + "2024-02-01,KO,dividend,3,\n2024-03-01,KO,split,-2,\n", mapping=MAPPING)
    (outcome,) = landing.run()
    assert (outcome.rows_published, outcome.rows_duplicate, outcome.rows_quarantined) == (0, 2, 2)
    kept_out = landing.lake.table("quarantine.corporate_actions").scan().collect()
    assert sorted(kept_out["reason"]) == ["out_of_bounds", "value_of_kind"]
