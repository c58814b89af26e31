"""What a real `shoal` says of a home that is damaged; nothing in it may be touched."""

from pathlib import Path

import pytest

from tests.support.processes import run_shoal

DAMAGED = b"no database at all " * 500
JOIN = ("join", "--no-table", "--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("place", "code"), [("shoal.db", 2), ("spool/journal.db", 7), ("spool/index.db", 7)]
)
def test_damaged_database_is_one_clear_error_and_stays_as_it_is(
    tmp_path: Path, place: str, code: int
) -> None:
    path = tmp_path / "home" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(DAMAGED)
    done = run_shoal(tmp_path, *JOIN, timeout_s=20)
    first, second = done.stderr.strip().splitlines()[-2:]
    assert done.code == code, done.stderr
    assert first.startswith("shoal: ")
    assert str(path.parent) in first
    assert second.startswith("hint: ")
    assert path.read_bytes() == DAMAGED


def test_get_without_a_peer_says_the_same_of_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "home" / "shoal.db"
    path.parent.mkdir()
    path.write_bytes(DAMAGED)
    done = run_shoal(tmp_path, "get", "a.txt")
    assert (done.code, done.stdout) == (2, "")
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
