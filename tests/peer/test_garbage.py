"""The collector of a running peer: what outlives a long full collection is not looked at again."""

import gc
from collections.abc import Iterator

import pytest

from peer import garbage
from peer.garbage import ShortTurns, keep_turns_short


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    threshold, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks[:] = callbacks
    gc.unfreeze()


def test_what_outlives_a_long_full_collection_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = keep_turns_short()
    before = gc.get_freeze_count()
    monkeypatch.setattr(garbage, "LONG_S", 0.0)
    kept = [[number] for number in range(1_000)]
    gc.collect()
    assert turns.frozen == 1
    assert gc.get_freeze_count() >= before + len(kept)


def test_short_and_partial_collections_freeze_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = keep_turns_short()
    monkeypatch.setattr(garbage, "LONG_S", 3600.0)
    gc.collect()
    monkeypatch.setattr(garbage, "LONG_S", 0.0)
    gc.collect(1)
    assert turns.frozen == 0


def test_an_end_without_a_start_is_ignored() -> None:
    turns = ShortTurns()
    turns("stop", {"generation": 2})
    assert turns.frozen == 0
