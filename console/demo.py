"""`shoal demo`: the whole story on this machine, played by five real processes.

Every step is a run of the command; every claim is checked, and every hash is computed from the
bytes on disk. Any wrong result ends the demo with an exit code other than 0. Imports nothing of
Shoal but its stage: standard library and rich only.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import sysconfig
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from console.stage import Actor, DemoFailed, Done, Stage, free_port

_ARCHIVE = "python-standard-library.tar"
_NOTES = "words-for-erin.txt"
_ARCHIVE_BYTES_MIN = 10_000_000
_ARCHIVE_BYTES_MAX = 60_000_000
_COPY_BYTES = 1024 * 1024


def run_demo(*, command: Sequence[str], queue_url: str | None, keep: bool) -> int:
    """Play the story with the given command; returns the exit code."""
    voice = Voice()
    began = time.monotonic()
    try:
        with Stage(command, keep=keep) as stage:
            _Story(stage, voice, queue_url).play()
            if keep:
                voice.say(f"the folders stay in {stage.folder}")
    except DemoFailed as error:
        voice.fail(str(error))
        return 1
    voice.say(f"all as it should be, in {time.monotonic() - began:.1f} s")
    return 0


class Voice:
    """Tells each step in a line: the command, its outcome, its time."""

    def __init__(self) -> None:
        self._console = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(markup=False, highlight=False, emoji=False)

    def chapter(self, title: str) -> None:
        self._print(f"\n{title}", "bold")

    def command(self, line: str) -> None:
        self._print(f"  {line}", "cyan")

    def outcome(self, text: str, seconds: float) -> None:
        self._print(f"    ✓ {text}  ({seconds:.2f} s)", "green")

    def say(self, text: str) -> None:
        self._print(text, "")

    def fail(self, text: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(f"shoal: the demo failed: {text}\n")

    def _print(self, text: str, style: str) -> None:
        if self._console is not None:
            self._console.print(text, style=style, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


class _Story:
    """Ada and Bob hold a file, Carol and Dave fetch it, Erin is away."""

    def __init__(self, stage: Stage, voice: Voice, queue_url: str | None) -> None:
        self._voice = voice
        self._folder = stage.folder
        self._network = stage.folder / "network.json"
        self._queue: list[str] = []
        if queue_url is not None:
            secret = stage.folder / "queue"
            secret.touch(mode=0o600)
            secret.write_text(queue_url)
            self._queue = ["--queue", f"@{secret}"]
        names = ("ada", "bob", "carol", "dave", "erin")
        self.ada, self.bob, self.carol, self.dave, self.erin = map(stage.actor, names)

    def play(self) -> None:
        self._form_a_network()
        archive_hash, notes_hash = self._share()
        self._fetch(archive_hash)
        delivery = self._send_to_the_absent()
        self._deliver(delivery, notes_hash)

    def _form_a_network(self) -> None:
        self._voice.chapter("Five peers form a private network")
        port = free_port()
        seed = f"127.0.0.1:{port}"
        self._tell(
            self.ada.run("network", "new", "demo", "--seed", seed, "-o", str(self._network)),
            "a network file with a fresh key",
        )
        began = time.monotonic()
        self._start(self.ada, seed)
        self.ada.wait_ready()
        others = (self.bob, self.carol, self.dave, self.erin)
        for actor in others:
            self._start(actor, "127.0.0.1:0")
        for actor in others:
            actor.wait_ready()
        addresses = ", ".join(f"{a.name} {a.address}" for a in (self.ada, *others))
        self._voice.outcome(f"ready: {addresses}", time.monotonic() - began)

    def _share(self) -> tuple[str, str]:
        self._voice.chapter("Two of them put the same file")
        archive = _pack_standard_library(self.ada.folder / _ARCHIVE)
        shutil.copyfile(archive, self.bob.folder / _ARCHIVE)
        notes = self.ada.folder / _NOTES
        notes.write_text("".join(f"Dear Erin, this is line {n}.\n" for n in range(1, 5001)))
        content_ids = set()
        for actor in (self.ada, self.bob):
            done = actor.run("put", _ARCHIVE)
            shared = done.results[0]
            _check(shared["stored_on"] >= 1, f"no other peer has the records: {shared}")
            content_ids.add(shared["content_id"])
            size = f"{shared['size'] / 1e6:.1f} MB"
            self._tell(done, f"{size}, its records are on {shared['stored_on']} other peers")
        _check(len(content_ids) == 1, f"one file, but several content ids: {content_ids}")
        return _hash(archive), _hash(notes)

    def _fetch(self, archive_hash: str) -> None:
        self._voice.chapter("A third finds it by a word, and fetches it from both")
        done = self.carol.run("search", "library")
        found = [item for item in done.results if item["name"] == _ARCHIVE]
        _check(len(found) == 1 and found[0]["holders"] == 2, f"wrong result: {done.results}")
        self._tell(done, f"{_ARCHIVE}, {found[0]['holders']} holders")
        # Not shared on, so that these two stay the only holders.
        done = self.carol.run("get", _ARCHIVE, "--no-share")
        got = done.results[0]
        _check(got["sources"] == 2, f"not from both holders: {got}")
        _check(_hash(Path(got["path"])) == archive_hash, "carol's file differs from ada's")
        rate = got["size"] / 1e6 / max(got["seconds"], 0.001)
        self._tell(done, f"identical, from {got['sources']} holders at {rate:.0f} MB/s")

        self._voice.chapter("A holder is killed; the file can still be had")
        self._voice.command("kill -KILL bob")
        self.bob.kill()
        done = self.dave.run("get", _ARCHIVE)
        got = done.results[0]
        _check(_hash(Path(got["path"])) == archive_hash, "dave's file differs from ada's")
        self._tell(done, f"identical, from {got['sources']} holder left")

    def _send_to_the_absent(self) -> str:
        self._voice.chapter("A file for a peer that is away; then the sender leaves too")
        done = self.erin.run("leave")
        _check(self.erin.join() == 0, "erin did not leave cleanly")
        self._tell(done, "erin is away")
        only = ["--via", "queue"] if self._queue else []
        done = self.ada.run("put", _NOTES, "--to", "erin", *only)
        sent = done.results[0]
        _check(sent["state"] == "stored", f"not stored: {sent}")
        by_queue = "rabbitmq" in sent["held_by"]
        _check(by_queue or not self._queue, f"not kept by RabbitMQ: {sent}")
        keepers = ", ".join(keeper[:8] for keeper in sent["held_by"])
        self._tell(done, f"stored, sealed, with {keepers} until {sent['expires']}")
        done = self.ada.run("leave")
        _check(self.ada.join() == 0, "ada did not leave cleanly")
        self._tell(done, "ada is away as well")
        return str(sent["delivery_id"])

    def _deliver(self, delivery: str, notes_hash: str) -> None:
        self._voice.chapter("The recipient comes back and has it; so the sender hears")
        self._back(self.erin)
        done = self.erin.poll("inbox", until=lambda item: item["name"] == _NOTES)
        received = done.results[0]
        _check(_hash(Path(received["path"])) == notes_hash, "erin's file differs from ada's")
        self._tell(done, f"identical: {received['path'].rpartition('/')[2]}, from ada")
        self._back(self.ada)
        done = self.ada.poll(
            "outbox",
            until=lambda item: item["delivery_id"] == delivery and item["state"] == "delivered",
        )
        self._tell(done, "delivered, by erin's signed receipt")

    def _back(self, actor: Actor) -> None:
        self._voice.command(f"{actor.name}$ shoal join")
        began = time.monotonic()
        # No --network: the home remembers. Another port: nobody may count on the old one.
        actor.start("--listen", "127.0.0.1:0", *self._queue)
        actor.wait_ready()
        self._voice.outcome(f"ready at {actor.address}", time.monotonic() - began)

    def _start(self, actor: Actor, listen: str) -> None:
        self._voice.command(f"{actor.name}$ shoal join --network network.json --listen {listen}")
        actor.start("--network", str(self._network), "--listen", listen, *self._queue)

    def _tell(self, done: Done, outcome: str) -> None:
        self._voice.command(done.line.replace(str(self._folder), "..."))
        self._voice.outcome(outcome, done.seconds)


def _pack_standard_library(path: Path) -> Path:
    """Pack the interpreter's own standard library; real files, tens of megabytes."""
    root = Path(sysconfig.get_path("stdlib"))
    size = 0
    with tarfile.open(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if "site-packages" in file.parts or not file.is_file():
                continue
            size += file.stat().st_size
            if size > _ARCHIVE_BYTES_MAX:
                break
            archive.add(file, arcname=str(file.relative_to(root)), recursive=False)
    if path.stat().st_size < _ARCHIVE_BYTES_MIN:
        raise DemoFailed(f"the standard library in {root} is not there")
    return path


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_COPY_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoFailed(otherwise)
