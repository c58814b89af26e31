"""What a peer publishes again after a restart: after a kill only what is due, after a leave all."""

import contextlib
import sqlite3
import time
from pathlib import Path

import msgspec

from dht.drafts import ScheduleRow
from tests.support.processes import PeerProcess, joined
from tests.support.waiting import until

NAMES = ("first song.txt", "second song.txt")
RECORDS = 2 * (1 + 1 + 3)
"""A name, a content and three words each."""
OTHERS = 2
PEER_RECORDS = 2
HOUR_MS = 3_600_000


def waiting_drafts(peer: PeerProcess) -> int:
    """How many drafts stand on the disk as not due within the next hour."""
    soon_ms = time.time_ns() // 1_000_000 + HOUR_MS
    with contextlib.closing(sqlite3.connect(peer.home / "shoal.db")) as database:
        rows = database.execute("SELECT saved FROM dht_schedule").fetchall()
    drafts = [msgspec.msgpack.decode(saved, type=ScheduleRow) for (saved,) in rows]
    return sum(draft.due_ms > soon_ms for draft in drafts)


def acknowledged(peer: PeerProcess) -> int:
    return int(peer.json("status")[0]["traffic"].get("ack-ok", 0))


def test_killed_peer_republishes_only_what_is_due_and_one_that_left_everything(
    tmp_path: Path,
) -> None:
    with joined(tmp_path, "ada", "bob", "carol") as [_, bob, carol]:
        until(lambda: bob.json("status")[0]["peers_active"] >= OTHERS)
        address = bob.address
        for name in NAMES:
            (bob.folder / name).write_bytes(name.encode())
            assert bob.json("put", name)[0]["stored_on"] == OTHERS
        until(lambda: waiting_drafts(bob) == RECORDS + PEER_RECORDS)

        bob.kill()
        bob.join(listen=address)
        (bob.folder / "new.txt").write_bytes(b"new")
        assert bob.json("put", "new.txt")[0]["stored_on"] == OTHERS
        assert acknowledged(bob) == OTHERS * (PEER_RECORDS + 1 + 1 + 2)
        assert len(carol.json("search", "song")) == len(NAMES)

        assert bob.terminate() == 0
        assert carol.json("search", "song") == []
        bob.join(listen=address)
        until(lambda: acknowledged(bob) >= OTHERS * (PEER_RECORDS + RECORDS + 4))
        assert len(carol.json("search", "song")) == len(NAMES)
