import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer import database as database_module
from peer.database import APPLICATION_ID, MIGRATIONS, Database
from peer.errors import DamagedDatabase, DatabaseBusy, HomeFull
from peer.failures import ExitCode, HomeUnusable, failure_of

OPEN_AND_WRITE = """
import sys
from pathlib import Path
from peer.database import Database
sys.stdin.read(1)
database = Database(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    database.run("INSERT INTO known_peer VALUES (?, 'n', 'a', 1)", b"%s-%d" % (
        sys.argv[3].encode(), number))
database.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shoal.db"


def filled(path: Path, count: int = 2_000) -> bytes:
    database = Database(path)
    with database.transaction():
        for number in range(count):
            database.run("INSERT INTO listed VALUES (?, ?, 1, 1)", os.urandom(32), f"{number}")
    database.close()
    return path.read_bytes()


def count_of(database: Database, table: str) -> int:
    ((count,),) = database.rows(f"SELECT count(*) FROM {table}")
    return int(count)


# Opening


def test_file_is_made_private_and_says_whose_it_is(path: Path) -> None:
    Database(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    filled(path, count=3)
    database = Database(path)
    assert count_of(database, "listed") == 3
    database.close()


@pytest.mark.parametrize("keep", [16, 99, 100, 512, 4_095, 4_096, 5_000, 0.5, 0.9])
def test_truncated_file_is_a_clear_error_and_stays_as_it_is(path: Path, keep: float) -> None:
    data = filled(path)
    rest = data[: int(keep if keep >= 1 else len(data) * keep)]
    path.write_bytes(rest)
    with pytest.raises(DamagedDatabase) as caught:
        Database(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.USAGE
    assert path.read_bytes() == rest


def test_file_of_another_format_is_refused_and_stays_as_it_is(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7 " * 1_000)
    with pytest.raises(DamagedDatabase):
        Database(path)
    assert path.read_bytes() == b"%PDF-1.7 " * 1_000


@pytest.mark.parametrize("version", [0, 1, 7])
def test_database_of_another_program_is_refused_and_stays_as_it_is(
    path: Path, version: int
) -> None:
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE bookmark (url TEXT)")
        plain.execute(f"PRAGMA user_version={version}")
        plain.commit()
    before = path.read_bytes()
    with pytest.raises(DamagedDatabase, match="another program"):
        Database(path)
    assert path.read_bytes() == before


def test_database_of_a_newer_shoal_is_left_alone_with_advice(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    with pytest.raises(DamagedDatabase, match="newer shoal") as caught:
        Database(path)
    assert "upgrade" in caught.value.hint


def test_later_migration_keeps_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, count=3)
    added = "CREATE TABLE extra (a TEXT) STRICT; INSERT INTO extra SELECT name FROM listed;"
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, added))
    database = Database(path)
    assert (count_of(database, "listed"), count_of(database, "extra")) == (3, 3)
    database.close()


def test_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, count=3)
    broken = "CREATE TABLE extra (a TEXT) STRICT; DROP TABLE listed; INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(sqlite3.OperationalError):
        Database(path)
    monkeypatch.undo()
    database = Database(path)
    assert count_of(database, "listed") == 3
    database.close()


def test_folder_in_its_place_or_no_folder_at_all_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "shoal.db"):
        with pytest.raises(HomeUnusable) as caught:
            Database(path)
        assert caught.value.exit_code is ExitCode.USAGE


def test_damaged_text_and_damaged_schema_are_damage_too(path: Path) -> None:
    database = Database(path)
    database.run("INSERT INTO listed VALUES (x'01', CAST(x'80ff' AS TEXT), 1, 1)")
    with pytest.raises(DamagedDatabase):
        database.rows("SELECT name FROM listed")
    database.close()
    data = bytearray(path.read_bytes())
    data[44:48] = b"\0\0\0\5"  # the schema format number: one that SQLite does not know
    path.write_bytes(data)
    with pytest.raises(DamagedDatabase, match="unsupported file format"):
        Database(path)


def test_header_without_version_is_damage(path: Path) -> None:
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA user_version=0")
    with pytest.raises(DamagedDatabase, match="version"):
        Database(path)


@given(junk=st.binary(min_size=1, max_size=300), at=st.integers(0, 30_000))
def test_any_damage_is_a_clear_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / "shoal.db"
    data = filled(path, count=200)
    at %= len(data)
    path.write_bytes((data[:at] + junk + data[at + len(junk) :])[: len(data)])
    try:
        database = Database(path)
    except (DamagedDatabase, HomeUnusable):
        return
    try:
        for table in ("listed", "share", "part", "contact", "known_peer", "received"):
            database.rows(f"SELECT * FROM {table}")
    except (DamagedDatabase, sqlite3.OperationalError):
        pass  # a table's own name may be what was damaged
    finally:
        database.close()


# Transactions


def test_transaction_lands_whole_or_not_at_all(path: Path) -> None:
    database = Database(path)

    def fail(error: type[BaseException]) -> None:
        with database.transaction():
            database.run("INSERT INTO listed VALUES (x'00', 'a', 1, 1)")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    with database.transaction():
        database.run("INSERT INTO listed VALUES (x'01', 'b', 1, 1)")
    assert database.rows("SELECT name FROM listed") == [("b",)]
    database.close()


def test_full_disk_is_told_as_such_and_the_next_transaction_works(path: Path) -> None:
    database = Database(path)
    (pages,) = database.rows("PRAGMA page_count")[0]
    database.run(f"PRAGMA max_page_count={pages + 2}")

    def fill() -> None:
        with database.transaction():
            for _ in range(1_000):
                database.run("INSERT INTO listed VALUES (?, ?, 1, 1)", os.urandom(32), "n" * 500)

    with pytest.raises(HomeFull) as caught:
        fill()
    assert caught.value.exit_code is ExitCode.FULL
    assert count_of(database, "listed") == 0
    with database.durable():
        database.run("INSERT INTO listed VALUES (x'01', 'b', 1, 1)")
    assert count_of(database, "listed") == 1
    database.close()


def test_durable_waits_for_the_disk_only_inside_its_block(path: Path) -> None:
    database = Database(path)
    full, normal = 2, 1
    with database.durable():
        assert database.rows("PRAGMA synchronous") == [(full,)]
    assert database.rows("PRAGMA synchronous") == [(normal,)]
    with pytest.raises(ValueError, match="broken"), database.durable():
        raise ValueError("broken")
    assert database.rows("PRAGMA synchronous") == [(normal,)]
    database.close()


def test_closing_twice_is_harmless(path: Path) -> None:
    database = Database(path)
    database.close()
    database.close()


# Several processes


def test_processes_that_open_a_new_file_at_once_all_succeed(path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_WRITE, str(path), "50", str(number)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors.decode()
    database = Database(path)
    assert count_of(database, "known_peer") == 4 * 50
    database.close()


def test_new_file_that_another_process_is_about_to_write_is_waited_for(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as plain:
        plain.execute("BEGIN IMMEDIATE")  # SQLite refuses write-ahead logging then, at once
        done = threading.Timer(0.1, plain.rollback)
        done.start()
        Database(path).close()
        done.join()


def test_second_process_reads_while_the_first_writes(path: Path) -> None:
    running, beside = Database(path), Database(path)
    running.run("INSERT INTO listed VALUES (x'01', 'seen', 1, 1)")
    with running.transaction():
        running.run("INSERT INTO listed VALUES (x'02', 'unseen', 1, 1)")
        assert beside.rows("SELECT name FROM listed") == [("seen",)]
    assert count_of(beside, "listed") == 2
    running.close()
    beside.close()


def test_file_that_stays_locked_is_busy_and_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    running, beside = Database(path), Database(path)
    with running.transaction():
        with pytest.raises(DatabaseBusy) as caught, beside.transaction():
            raise AssertionError("two writers at once")
        assert failure_of(caught.value).exit_code is ExitCode.TIMED_OUT
    with beside.transaction():
        beside.run("INSERT INTO listed VALUES (x'02', 'later', 1, 1)")
    assert count_of(running, "listed") == 1
    running.close()
    beside.close()
