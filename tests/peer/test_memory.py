import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lag import loop_lag
from dht.contacts import ContactRow
from dht.records import ContentPayload, encode_record
from dht.schedule import ScheduleRow
from dht.storage import SavedRecord, entry_id_of
from peer import database as database_module
from peer import memory as memory_module
from peer.database import Database
from peer.memory import DhtMemory
from tests.dht.nodes import OPEN, entry, make_node, nodes_of, peer_payload, until
from tests.support.records import signed


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "shoal.db")
    yield database
    database.close()


def record(number: int, data: bytes = b"data") -> SavedRecord:
    return SavedRecord(b"entry-%d" % number, data, "192.0.2.0/24")


def draft(number: int) -> ScheduleRow:
    return ScheduleRow(b"draft-%d" % number, 1, b"payload", 7, 8, None, 0, withdrawn=False)


def contact(number: int) -> ContactRow:
    return ContactRow(b"%020d" % number, b"k" * 32, f"127.0.0.1:{number}", "ada", number)


def test_another_start_finds_what_was_saved(database: Database) -> None:
    memory = DhtMemory(database)
    memory.save_records([record(1), record(2)], [])
    memory.save_records([record(2, b"newer")], [b"entry-1", b"entry-unknown"])
    memory.save_schedule([draft(1), draft(2)], [])
    memory.save_schedule([], [b"draft-2"])
    memory.save_contacts([contact(1), contact(2)])
    memory.save_contacts([contact(3)])
    again = DhtMemory(database)
    assert list(again.load_records()) == [record(2, b"newer")]
    assert list(again.load_schedule()) == [draft(1)]
    assert list(again.load_contacts()) == [contact(3)]


def test_row_that_cannot_be_read_is_left_out(database: Database) -> None:
    memory = DhtMemory(database)
    memory.save_records([record(1)], [])
    for number, junk in enumerate([b"", b"\xc1", msgspec.msgpack.encode([1, 2, 3])]):
        database.run("INSERT INTO dht_record VALUES (?, ?)", b"junk-%d" % number, junk)
    assert list(memory.load_records()) == [record(1)]


@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 5), st.binary(max_size=4), max_size=4),
            st.lists(st.integers(0, 5), max_size=3),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_saves_that_failed_land_in_order_with_the_next_one(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[dict[int, bytes], list[int], bool]],
) -> None:
    database = Database(tmp_path_factory.mktemp("memory") / "shoal.db")
    memory = DhtMemory(database)
    expected: dict[bytes, SavedRecord] = {}
    for saved, deleted, fails in [*steps, ({}, [], False)]:
        rows = [record(number, data) for number, data in saved.items()]
        gone = [b"entry-%d" % number for number in deleted]
        for key in gone:
            expected.pop(key, None)
        expected.update((row.entry_id, row) for row in rows)
        with full_disk(database) if fails else contextlib.nullcontext():
            memory.save_records(rows, gone)
    assert {row.entry_id: row for row in memory.load_records()} == expected
    database.close()


@contextlib.contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """Fail each statement as SQLite does when no page can be added."""
    with pytest.MonkeyPatch.context() as patch:

        def fail(statement: str, *values: object) -> int:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise database._failure_of(error) or error

        patch.setattr(database, "run", fail)
        yield


def test_locked_database_keeps_the_save_for_later(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    beside = Database(database.path)
    memory = DhtMemory(beside)
    with database.transaction():
        memory.save_records([record(1)], [])
        memory.save_contacts([contact(1)])
    assert "not saved yet" in caplog.text
    assert list(memory.load_records()) == []
    memory.save_records([record(2)], [])
    memory.save_contacts([contact(2)])
    assert list(memory.load_records()) == [record(1), record(2)]
    assert list(memory.load_contacts()) == [contact(2)]
    beside.close()


def test_unsaved_changes_are_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "UNSAVED_MAX", 3)
    memory = DhtMemory(database)
    with full_disk(database):
        for number in range(10):
            memory.save_records([record(number)], [])
    memory.save_schedule([draft(1)], [])
    assert [row.entry_id for row in memory.load_records()] == [b"entry-7", b"entry-8", b"entry-9"]


async def test_node_with_a_full_disk_lives_and_rejoins_from_what_it_saved_later(
    database: Database,
) -> None:
    async with nodes_of(2) as nodes:
        memory = DhtMemory(database)
        node = make_node(persistence=memory)
        with full_disk(database):
            await node.listen("127.0.0.1", 0)
            await node.bootstrap(entry(nodes[0]))
            await node.publish([peer_payload(node, "ada")])
            await until(lambda: bool(memory._schedule._unsaved))
            found = await node.find_peer(node.peer_id)
            assert found is not None
        await node.publish([peer_payload(node, "bob")])
        await until(lambda: len(list(memory.load_schedule())) > 0)
        await node.close()
        assert len(list(memory.load_contacts())) >= 2


async def test_a_full_store_is_taken_back_at_a_start_without_keeping_anybody_waiting(
    database: Database,
) -> None:
    now_ms = make_node().now_ms()
    rows = []
    for number in range(4_000):
        payload = ContentPayload(number.to_bytes(32, "big"))
        kept = signed(payload, network_id=OPEN.network_id, sequence=now_ms, issued_ms=now_ms)
        rows.append(SavedRecord(entry_id_of(kept), encode_record(kept), ""))
    memory = DhtMemory(database)
    memory.save_records(rows, ())
    node = make_node(persistence=memory)
    try:
        async with loop_lag() as lag:
            await node.listen("127.0.0.1", 0)
        assert len(node.store) == 4_000
        assert lag.longest_s < 0.05
    finally:
        await node.close()
