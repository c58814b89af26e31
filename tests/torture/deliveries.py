"""The torture of deliveries: one process or the broker fails at a random moment of each.

Owns the faults, the runs and the verdict on each. Real `shoal` processes: a sender, three hosts of
mail, a recipient; and a real broker of its own. A run sends a file to the recipient, who is away,
lets it join again, and makes its fault at a seeded moment of the one or the other. When all that
failed is back, whatever `put` accepted must lie in the inbox once, whole, and stand as `delivered`
in the sender's outbox.
"""

from __future__ import annotations

import contextlib
import enum
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import waiting
from tests.support.broker import PrivateBroker, temporary_broker
from tests.support.deliveries import digest_of
from tests.support.disks import may_mount, small_disk
from tests.support.processes import PeerProcess, environment, private_network, seed_of
from tests.torture.tally import Tally

RUNS = 200
HOSTS = 3
SIZES_BYTES = (100, 4_096, 700_000, 3_000_000, 12_000_000)
SEND_S = 1.0
"""A fault of the sending half comes within this time of its start."""
COLLECT_S = 1.5
"""A fault of the collecting half comes within this time of the recipient's start."""
OUTAGE_S = 0.5
END_TIMEOUT_S = 150.0
"""More than a peer's longest pause between two tries."""
PUT_TIMEOUT_S = 90.0
DISK_BYTES = 384 * 1024 * 1024
"""More than the floor below which a peer takes nothing; memory only while it is filled."""
HEADROOM_BYTES = 1024 * 1024
"""A full disk still lets a peer start: its databases need some."""
MAILBOX, QUEUE = "mailbox", "queue"


class Fault(enum.Enum):
    """What happens to one delivery; the value is how it is shown."""

    SENDER_KILLED = "sender killed"
    HOST_KILLED = "host killed"
    RECIPIENT_KILLED = "recipient killed"
    BROKER_RESTARTED = "broker restarted"
    BROKER_KILLED = "broker killed"
    BROKER_ALARMED = "broker's memory alarm"
    DISK_FULL = "recipient's disk full"


WAYS: dict[Fault, tuple[str, ...]] = {
    Fault.SENDER_KILLED: (MAILBOX, QUEUE),
    Fault.HOST_KILLED: (MAILBOX,),
    Fault.RECIPIENT_KILLED: (MAILBOX, QUEUE),
    Fault.BROKER_RESTARTED: (QUEUE,),
    Fault.BROKER_KILLED: (QUEUE,),
    Fault.BROKER_ALARMED: (QUEUE,),
    Fault.DISK_FULL: (MAILBOX, QUEUE),
}


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield the one tally of all faults in turn."""
    with tempfile.TemporaryDirectory() as folder, temporary_broker() as broker:
        yield torture_deliveries(Path(folder), broker, runs=runs or RUNS, seed=seed)


def torture_deliveries(
    folder: Path, broker: PrivateBroker, *, runs: int, seed: int, faults: Sequence[Fault] = ()
) -> Tally:
    """Run that many deliveries, each with a fault; all faults in turn where none are named."""
    tally = Tally("deliveries under faults", seed)
    given = list(faults) or [fault for fault in Fault if _can_make(fault, tally)]
    met: dict[Fault, int] = dict.fromkeys(given, 0)
    with world_of(folder, broker) as world:
        for number in range(runs):
            fault = given[number % len(given)]
            # Its own dice: a run can be repeated alone, whatever those before it did.
            run = Run(world, tally, number, fault, random.Random(f"{seed}/{number}"))
            began = time.monotonic()
            run.play()
            print(f"{run} ({time.monotonic() - began:.1f} s)", file=sys.stderr, flush=True)
            met[fault] += 1
        world.check_all(tally)
    tally.notes.append(", ".join(f"{fault.value} {count}" for fault, count in met.items()))
    return tally


class World:
    """The peers and the broker of all runs."""

    def __init__(self, folder: Path, broker: PrivateBroker, peers: Sequence[PeerProcess]) -> None:
        self.folder = folder
        self.broker = broker
        self.network = folder / "network.json"
        self.ada, self.bob, *self.hosts = peers
        self.sent: dict[str, str] = {}
        """Digest by name of everything that was accepted."""
        self.seen: set[str] = set()
        """Digests of what has arrived so far."""

    def start(self, peer: PeerProcess) -> None:
        """Let a peer begin to join, at its old address where it had one."""
        listen = peer.address or "127.0.0.1:0"
        if peer in self.hosts:
            peer.start(network=self.network, listen=listen)
        else:
            peer.start(
                "--no-mailbox",
                network=self.network,
                listen=listen,
                extra={"SHOAL_QUEUE": self.broker.url},
            )

    def join(self, peer: PeerProcess) -> None:
        """Let a peer join and wait until it is ready."""
        self.start(peer)
        peer.wait_ready()

    @property
    def inbox(self) -> Path:
        """Where the recipient's files are."""
        return self.bob.home / "inbox"

    def copies_of(self, name: str) -> list[Path]:
        """The files in the inbox that came of a name: a second one would have a number added."""
        stem = name.partition(".")[0]
        return [path for path in self.inbox.glob(f"{stem}*") if path.is_file()]

    def empty_inbox(self, tally: Tally) -> None:
        """Take out what has arrived: each accepted file once, now or ever, and nothing else."""
        for path in sorted(self.inbox.iterdir()):
            if path.name.startswith("."):
                continue
            digest = digest_of(path)
            if digest not in self.sent.values():
                tally.damaged += 1
                tally.notes.append(f"the inbox holds {path.name}, which nobody sent so")
            elif digest in self.seen:
                tally.doubled += 1
                tally.notes.append(f"{path.name} is what had arrived before")
            self.seen.add(digest)
            path.unlink()

    def check_all(self, tally: Tally) -> None:
        """Once more over all runs: what was accepted has arrived."""
        self.empty_inbox(tally)
        for name, digest in self.sent.items():
            if digest not in self.seen:
                tally.notes.append(f"{name} never arrived")


@contextlib.contextmanager
def world_of(folder: Path, broker: PrivateBroker) -> Iterator[World]:
    """All peers, joined; ended in any case."""
    names = ["ada", "bob", *(f"host-{number}" for number in range(HOSTS))]
    with contextlib.ExitStack() as stack:
        network = private_network(folder)
        peers = [stack.enter_context(PeerProcess(folder, name)) for name in names]
        world = World(folder, broker, peers)
        world.hosts[0].address = seed_of(network)
        if may_mount():
            stack.enter_context(small_disk(world.bob.folder, DISK_BYTES))
        for peer in (*world.hosts, world.ada, world.bob):
            world.join(peer)
        yield world


class Run:
    """One delivery, its fault, and what became of it."""

    def __init__(
        self, world: World, tally: Tally, number: int, fault: Fault, rng: random.Random
    ) -> None:
        self.world = world
        self.tally = tally
        self.fault = fault
        self.rng = rng
        self.name = f"run-{number:03}-.bin"
        self.way = rng.choice(WAYS[fault])
        self.is_early = fault is Fault.SENDER_KILLED or (
            fault is not Fault.RECIPIENT_KILLED and rng.random() < 0.5
        )
        """Whether the fault comes while the file is sent; else while it is collected."""
        self.source = world.folder / "sources" / self.name
        self.source.parent.mkdir(exist_ok=True)
        self.size_bytes = rng.choice(SIZES_BYTES)
        self.source.write_bytes(rng.randbytes(self.size_bytes))
        self.filler = world.bob.folder / "filler"

    def play(self) -> None:
        """Send, fail, heal, and judge."""
        world = self.world
        self.tally.runs += 1
        self._leave_bob()
        accepted = self._send()
        world.start(world.bob)
        if not self.is_early:
            _pause(self.rng.uniform(0, COLLECT_S))
            self._fail()
            self._heal()
        world.bob.wait_ready()
        if self.is_early and self.fault is Fault.DISK_FULL:
            self._check_full()
        if accepted:
            self.world.sent[self.name] = digest_of(self.source)
            self._await_delivery()
        self.source.unlink()

    def _leave_bob(self) -> None:
        if self.rng.random() < 0.5:
            self.world.bob.terminate()
        else:
            self.world.bob.kill()

    def _send(self) -> bool:
        """Run `put --to`, with an early fault; whether the delivery was accepted."""
        world = self.world
        ada, bob = world.ada, world.bob
        with subprocess.Popen(
            [sys.executable, str(ada.cli), "put", str(self.source), "--to", bob.id,
             "--via", self.way],
            cwd=ada.folder,
            env=environment(ada.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as put:  # fmt: skip
            if self.is_early:
                _pause(self.rng.uniform(0, SEND_S))
                self._fail()
                self._heal()
            _, errors = put.communicate(timeout=PUT_TIMEOUT_S)
        # What the command could not tell stands in the outbox, or was never accepted.
        rows = [row for row in ada.json("outbox") if row["name"] == self.name]
        if put.returncode == 0 and not rows:
            self._lost(f"put said that it is done, and the outbox does not know it: {errors!r}")
        return bool(rows)

    def _fail(self) -> None:
        match self.fault:
            case Fault.SENDER_KILLED:
                self.world.ada.kill()
            case Fault.HOST_KILLED:
                self.victim = self.rng.choice(self.world.hosts)
                self.victim.kill()
            case Fault.RECIPIENT_KILLED:
                self.world.bob.kill()
            case Fault.BROKER_RESTARTED:
                self.world.broker.restart()
            case Fault.BROKER_KILLED:
                self.world.broker.kill()
            case Fault.BROKER_ALARMED:
                self.world.broker.starve()
            case Fault.DISK_FULL:
                self._fill_disk()

    def _heal(self) -> None:
        _pause(self.rng.uniform(0, OUTAGE_S))
        match self.fault:
            case Fault.SENDER_KILLED:
                self.world.join(self.world.ada)
            case Fault.HOST_KILLED:
                self.world.join(self.victim)
            case Fault.RECIPIENT_KILLED:
                self.world.start(self.world.bob)
            case Fault.BROKER_RESTARTED:
                pass
            case Fault.BROKER_KILLED:
                self.world.broker.start()
            case Fault.BROKER_ALARMED:
                self.world.broker.feed()
            case Fault.DISK_FULL:
                if not self.is_early:  # else the recipient is to meet it first
                    self.filler.unlink()

    def _fill_disk(self) -> None:
        disk = os.statvfs(self.filler.parent)
        room = disk.f_bavail * disk.f_frsize - HEADROOM_BYTES
        with self.filler.open("wb") as file, contextlib.suppress(OSError):  # it may fill meanwhile
            os.posix_fallocate(file.fileno(), 0, max(1, room))

    def _check_full(self) -> None:
        """Give it time to meet the full disk: what does not fit must not have arrived."""
        _pause(self.rng.uniform(0, COLLECT_S))
        if self.size_bytes > HEADROOM_BYTES and self.world.copies_of(self.name):
            self._lost("a file is said to lie on a disk that has no room for it")
        self.filler.unlink()

    def _await_delivery(self) -> None:
        try:
            waiting.until(self._is_delivered, END_TIMEOUT_S, self.name)
        except AssertionError:
            rows = [row for row in self.world.ada.json("outbox") if row["name"] == self.name]
            self._lost(f"not delivered after {END_TIMEOUT_S:.0f} s: {rows}")
            return
        (copy, *others) = self.world.copies_of(self.name)
        if others:
            self._note(f"delivered {1 + len(others)} times")
        if digest_of(copy) != digest_of(self.source):
            self._note("differs")
        self.world.empty_inbox(self.tally)

    def _is_delivered(self) -> bool:
        if not self.world.copies_of(self.name):
            return False
        rows = [row for row in self.world.ada.json("outbox") if row["name"] == self.name]
        return [row["state"] for row in rows] == ["delivered"]

    def _lost(self, what: str) -> None:
        self.tally.lost += 1
        self._note(what)

    def _note(self, what: str) -> None:
        self.tally.notes.append(f"{self}: {what}")

    def __str__(self) -> str:
        when = "while sent" if self.is_early else "while collected"
        return f"{self.name}, {self.size_bytes:,} bytes by {self.way}, {self.fault.value} {when}"


def _can_make(fault: Fault, tally: Tally) -> bool:
    if fault is Fault.DISK_FULL and not may_mount():
        tally.notes.append("no full disk: only root may mount a small one")
        return False
    return True


def _pause(seconds: float) -> None:
    # A fault's moment, seeded; nothing is awaited by it.
    threading.Event().wait(seconds)
