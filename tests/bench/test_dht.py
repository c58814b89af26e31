import json

import pytest

from bench import dht
from bench.network import Layout
from bench.systems.base import Item

TINY = dht.Plan(
    systems=("shoal", "kademlia"),
    repetitions=1,
    layout=Layout(nodes=10, askers=2),
    settle_s=0.1,
    items=4,
    flood_s=0.2,
    concurrency=2,
)


def test_a_tiny_run_measures_both_and_finds_everything() -> None:
    results = dht.run_all(TINY)
    assert set(results) == {"shoal", "kademlia"}
    for (result,) in results.values():
        assert set(result.figures) == {figure.name for figure in dht.FIGURES}
        assert all(value > 0 for value in result.figures.values())
        assert all(done == asked > 0 for done, asked in result.counts.values())
        assert result.counts["got with silent nodes"] == (4, 4)
    shown = dht.show(TINY, results)
    assert "shoal/kademlia" in shown
    assert "MISSING" not in shown


def test_what_is_missing_is_shown() -> None:
    figures = {figure.name: 1.0 for figure in dht.FIGURES}
    whole = dht.Result(figures, {"stored": (4, 4), "got": (4, 4)})
    lossy = dht.Result(figures, {"stored": (4, 4), "got": (1, 4)})
    shown = dht.show(TINY, {"shoal": [whole, lossy], "kademlia": [whole, whole]})
    assert "shoal: stored 8/8, got 5/8 (3 MISSING)" in shown
    assert "kademlia: stored 8/8, got 8/8\n" in shown


def test_all_figures_of_a_run_are_written(tmp_path, monkeypatch) -> None:
    figures = {figure.name: 1.0 for figure in dht.FIGURES}
    result = dht.Result(figures, {"stored": (4, 4)})
    monkeypatch.setattr(dht, "run_all", lambda plan: {"shoal": [result] * plan.repetitions})
    dht.main(["--systems", "shoal", "--repetitions", "2", "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["plan"]["repetitions"] == 2
    assert [each["figures"] for each in written["results"]["shoal"]] == [figures, figures]


def test_an_unknown_system_is_named() -> None:
    with pytest.raises(SystemExit, match="chord"):
        dht.main(["--systems", "chord"])


def test_items_of_a_run_differ_in_name_and_value() -> None:
    items = [Item(number, salt) for number in range(3) for salt in "ab"]
    assert len({item.name for item in items}) == len({item.value for item in items}) == 6
