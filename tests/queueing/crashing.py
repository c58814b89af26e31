"""One delivery from sealing to the last acknowledgement, stopped before its n-th step.

Run: python -m tests.queueing.crashing FOLDER kill|fail FIRST EVERY file|folder. Imports everything
once, then forks a process for each step: it plays the whole delivery (sender, keeper and recipient,
with the recipient's real inbox) and is killed, or its disk fails once, before that step. Another
process opens what lies on the disk then, finishes, and judges: nothing lost, nothing twice, nothing
left behind.
Prints a line for each step that is judged wrong, and "STEPS n" at the end.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from identity.errors import ShoalError
from peer.config import Config
from peer.contacts import Contacts
from peer.database import Database
from peer.inbox import Inbox
from peer.received import ReceivedJournal
from peer.serving import Acceptance
from queueing.courier import Courier, FolderFacts
from queueing.journal import Journal
from queueing.receiver import Receiver
from queueing.spool import Spool
from queueing.states import State
from tests.queueing.letters import HOUR_MS, NETWORK, NETWORK_ID
from tests.queueing.posts import ALICE, BOB, START_MS, Clock, Switchable
from tests.support.steps import Steps
from tests.transfer.trees import picture
from transfer.folder_source import FolderSource
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFolder
from transfer.tree_walk import hash_tree

NAME = "letter.bin"
CONTENT = random.Random(1).randbytes(600_000)
STEPS_MAX = 1_000
BROKEN = 3
"""Exit code of a process whose story ended with an error that no caller expects."""


@dataclass
class Cast:
    """Sender, keeper and recipient, opened from one folder."""

    alice: Courier
    bob: Courier
    alice_spool: Spool
    keeper: Spool
    inbox: Inbox
    folder: Path


async def _never_there(_sender: bytes, _receipt: bytes) -> bool:
    raise ShoalError("not reachable")


async def open_cast(folder: Path, closing: AsyncExitStack) -> Cast:
    """Open all three, as a start does."""
    clock = Clock(START_MS)
    keeper = await Spool.open(folder / "keeper", NETWORK_ID, wall_ms=clock)
    closing.push_async_callback(keeper.close)
    store = Switchable(keeper)
    database = Database(folder / "bob.db")
    closing.callback(database.close)
    inbox = Inbox(
        BOB.peer_id,
        Acceptance(Config(), NETWORK, Contacts(database)),
        InboxFolder(folder / "inbox", 1 << 30, free_floor_bytes=0),
        ReceivedJournal(database),
        file_bytes_max=1 << 30,
        on_received=lambda _row: None,
    )
    couriers, spools = [], []
    for own, name in ((ALICE, "alice"), (BOB, "bob")):
        spool = await Spool.open(folder / f"{name}-spool", NETWORK_ID, wall_ms=clock)
        closing.push_async_callback(spool.close)
        journal = await Journal.open(folder / f"{name}-journal.db")
        closing.push_async_callback(journal.close)
        receiver = Receiver(own, NETWORK_ID, journal, inbox, _never_there, wall_ms=clock)
        spools.append(spool)
        couriers.append(Courier(own, NETWORK_ID, spool, journal, [store], receiver, wall_ms=clock))
        await couriers[-1].recover()
    return Cast(couriers[0], couriers[1], spools[0], keeper, inbox, folder)


def make_source(path: Path, *, is_folder: bool) -> None:
    """Make what is sent: a file, or a folder with a large file, small ones, a twin and a link."""
    if not is_folder:
        path.write_bytes(CONTENT)
        return
    for name, data in (("large", CONTENT), ("a/b/one", b"1"), ("a/two", b"22"), ("a/twin", b"1")):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "a" / "two").chmod(0o755)
    (path / "a" / "link").symlink_to("../large")
    (path / "empty").mkdir()


def looks_like(path: Path, source: Path) -> bool:
    """Tell whether what arrived is what was sent."""
    if source.is_dir():
        return path.is_dir() and picture(path) == picture(source)
    return path.read_bytes() == CONTENT


async def send(cast: Cast) -> None:
    """Send the letter; from when this returns on, it must arrive."""
    path = cast.folder / NAME
    letter = {
        "name": NAME, "recipient": BOB.peer_id, "recipient_sealing_key": BOB.sealing_public_key,
        "expires_ms": START_MS + HOUR_MS, "seal_id": b"s" * 16,
    }  # fmt: skip
    if path.is_dir():
        tree = await hash_tree(path)
        source = FolderSource(path, tree)
        size, manifest = source.size_bytes, tree.tree.manifest
        source.close()
        await cast.alice.send(
            lambda: FolderSource(path, tree), content_id=manifest.content_id, size=size,
            folder=FolderFacts(4, manifest.tree_bytes), **letter,
        )  # fmt: skip
        return
    content_id = hash_file_blocking(path).manifest.content_id
    await cast.alice.send(path, content_id=content_id, size=len(CONTENT), **letter)


async def finish(cast: Cast) -> None:
    """Do what running peers do until nothing is left to do."""
    await cast.alice.retry(hurried=True)
    await cast.bob.receive_all()
    await cast.alice.poll_receipts()
    await cast.alice.expire()
    await cast.bob.expire()


async def play(folder: Path, steps: Steps) -> None:
    """Play the story; a failing disk is met as running peers meet it: they try again."""
    async with AsyncExitStack() as closing:
        cast = await open_cast(folder, closing)
        steps.count()
        with contextlib.suppress(ShoalError):
            await send(cast)
            (folder / "sent").mkdir()  # the caller was told
        for _try in range(2):
            with contextlib.suppress(ShoalError):
                await finish(cast)
    (folder / "steps").write_text("\n".join(steps.taken))


async def judge(folder: Path) -> list[str]:
    """Start again, finish, and return what is wrong."""
    wrong = []
    async with AsyncExitStack() as closing:
        cast = await open_cast(folder, closing)
        await finish(cast)
        rows = await cast.alice.rows()
        if (folder / "sent").exists() and not rows:
            wrong.append("the sender was told that it is sent, and forgot it")
        if [row.state for row in rows] not in ([], [State.DELIVERED]):
            wrong.append(f"the outbox says {[str(row.state) for row in rows]}")
        files = sorted((folder / "inbox").iterdir()) if (folder / "inbox").exists() else []
        if [path.name for path in files] != [NAME] * len(rows):
            wrong.append(f"the inbox holds {[path.name for path in files]}")
        if not all(looks_like(path, folder / NAME) for path in files):
            wrong.append("what arrived is damaged")
        if len(cast.inbox.journal.all()) != len(rows):
            wrong.append("the recipient's journal does not say what its inbox holds")
        await finish(cast)
        if rows and (await cast.bob.receive_all()).received:
            wrong.append("it was received a second time")
    sealed = [path for each in folder.glob("*/sealed") for path in each.iterdir()]
    staged = [path for each in folder.glob("*/staging") for path in each.iterdir()]
    if sealed or staged:
        wrong.append(f"left behind: {[str(path.relative_to(folder)) for path in sealed + staged]}")
    return wrong


def in_a_fork(work: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """Run work in a process of its own; return how it ended, as waitpid says."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - the edge of a process
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(BROKEN)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def try_step(folder: Path, step: int, *, kills: bool, is_folder: bool) -> list[str] | None:
    """Stop before one step and judge; None when the story ends before it."""
    folder.mkdir()
    make_source(folder / NAME, is_folder=is_folder)

    async def story() -> None:
        steps = Steps(step, kills=kills)
        steps.arm()
        await play(folder, steps)

    async def verdict() -> None:
        (folder / "verdict").write_text("\n".join(await judge(folder)))

    status = in_a_fork(story)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        return ["the story ended with an error that nobody expects"]
    over = (folder / "steps").exists() and len((folder / "steps").read_text().split()) < step
    if in_a_fork(verdict) != 0:
        return ["the next start failed"]
    found = (folder / "verdict").read_text().splitlines()
    return None if over and not found else found


def main(folder: Path, mode: str, first: int, every: int, kind: str) -> int:
    """Try each step from the first on; return how many were judged wrong."""
    failures, step = 0, first
    options = {"kills": mode == "kill", "is_folder": kind == "folder"}
    while (found := try_step(folder / f"{mode}-{step}", step, **options)) is not None:
        for what in found:
            failures += 1
            print(f"step {step}: {what}", flush=True)
        step += every
        assert step < STEPS_MAX, "the story never ends"
    print("STEPS", step - first, flush=True)
    return failures


if __name__ == "__main__":
    _, where, how, from_step, by, what = sys.argv
    sys.exit(main(Path(where), how, int(from_step), int(by), what) > 0)
