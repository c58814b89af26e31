"""Twelve peers on four hosts: one is cut off, works on alone, and is found again when healed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.hosts import Host, hosts, why_no_cuts
from tests.support.processes import PeerProcess, run_shoal
from tests.support.waiting import until

HOSTS = 4
PEERS_A_HOST = 3
AT_ONCE = 4
QUICK_S = 5.0
"""A read that waited for each silent peer in turn would take longer."""
INACTIVE_S = 60.0
HEALED_S = 60.0
START_S = 60.0
"""Twelve processes start at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """The peers on one side of the cut, and a file that was put there before and one during it."""

    peers: Sequence[PeerProcess]
    before: str
    during: str


def each_at_once(work: Callable[..., object], *arguments: Sequence[object]) -> None:
    """Run work for each item, some at a time; raises what any of them raised."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, *arguments))


@contextlib.contextmanager
def peers_on(folder: Path, machines: Sequence[Host]) -> Iterator[list[PeerProcess]]:
    """Three peers on each host, in one private network; those of a host in a row."""
    network = folder / "network.json"
    seed = f"{machines[0].address}:4100"
    made = run_shoal(folder, "network", "new", "t", "--seed", seed, "-o", str(network))
    assert made.code == 0, made.stderr
    with contextlib.ExitStack() as running:
        peers = [
            running.enter_context(PeerProcess(folder, f"{place}-{number}", cli=machine.cli))
            for place, machine in enumerate(machines)
            for number in range(PEERS_A_HOST)
        ]
        running.callback(each_at_once, kill_started, peers)
        peers[0].join(network=network, listen=seed)
        for peer in peers[1:]:
            peer.start(network=network, listen=None)
        for peer in peers[1:]:
            peer.wait_ready(START_S)
        yield peers


def kill_started(peer: PeerProcess) -> None:
    """End a peer without a farewell: that is quick."""
    if peer.is_started:
        peer.kill()


def content(name: str) -> bytes:
    return name.encode() * 50_000


def put(peer: PeerProcess, name: str) -> None:
    (peer.folder / name).write_bytes(content(name))
    [result] = peer.json("put", name)
    assert result["stored_on"] >= 1


def finds(peer: PeerProcess, names: set[str]) -> bool:
    return {hit["name"] for hit in peer.json("search", "land")} >= names


def fetch(peer: PeerProcess, name: str, *options: str) -> float:
    """Fetch a file that must be there; return how many seconds it took the peer."""
    [got] = peer.json("get", name, *options)
    assert Path(got["path"]).read_bytes() == content(name)
    return float(got["seconds"])


def works_alone(here: Side, there: Side) -> None:
    """One side of the cut reads and puts what is on its side, and is told what is not."""
    first, second, third = here.peers[:3]
    assert finds(second, {here.before})
    assert fetch(second, here.before) < QUICK_S
    gone = third.run("get", there.before, "--timeout", "2")
    assert gone.code == ExitCode.UNREACHABLE
    assert "1 holder is known, none can be reached" in gone.stderr
    put(first, here.during)
    assert fetch(third, here.during) < QUICK_S
    unknown = second.run("get", there.during)
    assert unknown.code == ExitCode.NOT_FOUND
    assert f"nothing is offered under the name {there.during!r}" in unknown.stderr


def sees_only(here: Side, there: Side) -> None:
    """One side of the cut is shown as there, the other as gone."""
    cut_off = {peer.id for peer in there.peers}
    here.peers[-1].poll(
        "peers",
        until=lambda rows: {row["id"] for row in rows if row["state"] == "inactive"} == cut_off,
        timeout_s=INACTIVE_S,
    )


@pytest.mark.timeout(240)  # long before it, each wait ends at a deadline of its own
def test_cut_off_host_works_alone_and_everything_is_found_everywhere_when_healed(
    tmp_path: Path,
) -> None:
    if reason := why_no_cuts():
        pytest.skip(reason)
    with hosts(tmp_path, HOSTS) as machines, peers_on(tmp_path, machines) as peers:
        main = Side(peers[:-PEERS_A_HOST], "land main before.bin", "land main during.bin")
        isle = Side(peers[-PEERS_A_HOST:], "land isle before.bin", "land isle during.bin")
        # Put by the last mainland peer and read by the first ones: on hosts of their own.
        put(main.peers[-1], main.before)
        put(isle.peers[0], isle.before)
        for peer in (main.peers[2], isle.peers[2]):
            until(partial(finds, peer, {main.before, isle.before}))
        with machines[-1].cut_off():
            each_at_once(works_alone, (main, isle), (isle, main))
            each_at_once(sees_only, (main, isle), (isle, main))

        everything = {main.before, main.during, isle.before, isle.during}

        def has_everything(peer: PeerProcess) -> None:
            until(partial(finds, peer, everything), HEALED_S, f"{peer.name} finds everything")
            other = main if peer in isle.peers else isle
            for name in (other.before, other.during):
                fetch(peer, name, "--no-share")

        each_at_once(has_everything, peers)
        for peer in (main.peers[0], isle.peers[0]):
            peer.poll("peers", until=lambda rows: all(row["state"] == "active" for row in rows))
