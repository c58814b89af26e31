"""The outbox, by real processes: deliveries cancelled, expired, refused, waited for, put off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deliveries import (
    await_received,
    await_state,
    configure,
    digest_of,
    inbox_files,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, environment, joined


class Pair:
    def __init__(self, folder: Path, name: str) -> None:
        self.network = folder / "network.json"
        self.ada = PeerProcess(folder, f"ada-{name}")
        self.bob = PeerProcess(folder, f"bob-{name}")

    def __enter__(self) -> Pair:
        self.bob.start(network=self.network)
        self.ada.start(network=self.network)
        self.bob.wait_ready()
        self.ada.wait_ready()
        assert self.bob.terminate() == 0
        return self

    def __exit__(self, *_: object) -> None:
        self.ada.__exit__()
        self.bob.__exit__()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outbox")


@pytest.fixture(scope="module")
def hosts(folder: Path) -> Iterator[list[PeerProcess]]:
    """Two peers that keep mail; recipients and senders of the tests come and go beside them."""
    with joined(folder, "host-1", "host-2") as peers:
        yield peers


@pytest.fixture
def pair(folder: Path, hosts: list[PeerProcess], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A sender that is there, and a recipient that was there once; both this test's own."""
    with Pair(folder, request.node.name[5:25]) as made:
        yield made


def test_cancelled_delivery_never_arrives(
    pair: Pair, hosts: list[PeerProcess], tmp_path: Path
) -> None:
    ada, bob = pair.ada, pair.bob
    kept = sum(_spooled_bytes(host) for host in hosts)
    sent = send(ada, write_file(tmp_path, "regretted.bin", 400_000), bob.id)
    assert sent["state"] == "stored"
    assert sum(_spooled_bytes(host) for host in hosts) >= kept + 800_000

    (cancelled,) = ada.json("outbox", "cancel", sent["delivery_id"][:8])

    assert cancelled["state"] == "cancelled"
    assert sum(_spooled_bytes(host) for host in hosts) == kept
    assert ada.run("outbox", "cancel", sent["delivery_id"]).code == 2
    assert ada.run("outbox", "cancel", "0" * 64).code == 3
    assert ada.run("outbox", "cancel", sent["delivery_id"][:4]).code == 3
    marker = send(ada, write_file(tmp_path, "marker", 1), bob.id)
    bob.join(network=pair.network)
    await_received(bob, marker)
    assert inbox_files(bob) == ["marker"]
    assert ada.json("outbox")[0]["state"] == "cancelled"


def test_expired_delivery_is_shown_as_such_and_never_arrives(pair: Pair, tmp_path: Path) -> None:
    ada, bob = pair.ada, pair.bob
    sent = send(ada, write_file(tmp_path, "ephemeral", 10), bob.id, "--expires", "2s")
    assert sent["state"] in ("stored", "expired")
    done = ada.run(
        "put", str(write_file(tmp_path, "waited for", 10)), "--to", bob.id, "--expires", "1s",
        "--wait",
    )  # fmt: skip
    assert done.code == 8, done.stderr
    assert "expired" in done.stderr
    await_state(ada, sent, "expired", 5.0)
    marker = send(ada, write_file(tmp_path, "marker", 1), bob.id)
    bob.join(network=pair.network)
    await_received(bob, marker)
    assert inbox_files(bob) == ["marker"]


def test_wait_ends_with_the_receipt_of_a_peer_that_comes_back(pair: Pair, tmp_path: Path) -> None:
    source = write_file(tmp_path, "patience.bin", 5000)
    words = ["--json", "put", str(source), "--to", pair.bob.id, "--wait"]
    waiting = _begin(pair.ada, *words)
    try:
        pair.ada.poll("outbox", until=lambda rows: [r["state"] for r in rows] == ["stored"])
        assert waiting.poll() is None
        pair.bob.join(network=pair.network)
        stdout, stderr = waiting.communicate(timeout=20)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 0, stderr
    assert '"state":"delivered"' in stdout
    assert digest_of(pair.bob.home / "inbox" / source.name) == digest_of(source)


def test_refusal_that_comes_later_reaches_the_sender(pair: Pair, tmp_path: Path) -> None:
    ada, bob = pair.ada, pair.bob
    configure(bob, '[inbox]\naccept = "none"\n')
    source = write_file(tmp_path, "unwanted.txt", 10)
    sent = send(ada, source, bob.id)
    assert sent["state"] == "stored"
    waiting = _begin(ada, "put", str(source), "--to", bob.id, "--wait")
    try:
        ada.poll("outbox", until=lambda rows: [r["state"] for r in rows] == ["stored"] * 2)
        bob.join(network=pair.network)
        await_state(ada, sent, "refused")
        _stdout, stderr = waiting.communicate(timeout=20)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 6
    assert "refused" in stderr
    assert inbox_files(bob) == []
    assert bob.json("inbox") == []


def test_full_inbox_leaves_the_delivery_where_it_is(pair: Pair, tmp_path: Path) -> None:
    ada, bob = pair.ada, pair.bob
    configure(bob, "[inbox]\nquota_bytes = 1000\n")
    large = send(ada, write_file(tmp_path, "large", 2000), bob.id)
    small = send(ada, write_file(tmp_path, "small", 900), bob.id)
    bob.join(network=pair.network)
    await_received(bob, small)
    await_state(ada, small, "delivered")
    assert inbox_files(bob) == ["small"] or inbox_files(bob)[1:] == ["small"]
    await_state(ada, large, "stored")
    assert bob.terminate() == 0
    configure(bob, "")
    bob.join(network=pair.network)
    await_received(bob, large)
    assert inbox_files(bob) == ["large", "small"]


def _begin(peer: PeerProcess, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(peer.cli), *arguments],
        cwd=peer.folder,
        env=environment(peer.folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _spooled_bytes(host: PeerProcess) -> int:
    """Count the bytes of sealed chunks at a host; its databases are left out."""
    return sum(
        path.stat().st_size
        for path in (host.home / "spool").rglob("*")
        if path.is_file() and ".db" not in path.name
    )
