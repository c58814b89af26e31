"""What is measured, on real sockets and files."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity.address import Address
from identity.network import BootstrapNode
from peer.checkup import PortState, Tls
from peer.home import Home
from peer.probing import probe_node, probe_tls, secret_files, spaces, try_to_listen
from tests.peer.cores import address_of, cores_of, serving


@contextlib.contextmanager
def bound(kind: socket.SocketKind) -> Iterator[Address]:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen(1)
        yield Address(*taken.getsockname())


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_port_of_another_process_is_taken_and_free_once_it_is_gone(kind: socket.SocketKind) -> None:
    wanted = {True: PortState.TAKEN, False: PortState.FREE}
    with bound(kind) as address:
        udp, tcp = try_to_listen(address)
        assert udp.state is wanted[kind is socket.SOCK_DGRAM]
        assert tcp.state is wanted[kind is socket.SOCK_STREAM]
    assert {each.state for each in try_to_listen(address)} == {PortState.FREE}


def test_address_of_another_machine_is_refused_with_the_systems_words() -> None:
    for attempt in try_to_listen(Address("203.0.113.9", 4100)):
        assert attempt.state is PortState.REFUSED
        assert "assign" in attempt.text


def test_modes_and_room_are_read_also_where_there_is_no_home_yet(tmp_path: Path) -> None:
    home = Home(tmp_path / "not" / "yet")
    assert [file.mode for file in secret_files(home)] == [None] * 3
    assert all(space.free_bytes is not None for space in spaces(home))
    home.ensure()
    home.key_path.write_bytes(b"k")
    home.key_path.chmod(0o640)
    modes = {Path(file.path).name: file.mode for file in secret_files(home)}
    mode = modes["identity.key"]
    assert mode is not None
    assert mode & 0o777 == 0o640
    assert modes["network.json"] is None


async def test_node_is_tried_over_udp_and_tls(tmp_path: Path) -> None:
    async with cores_of(tmp_path, "ada", "bob") as (ada, bob):
        node = BootstrapNode(address_of(bob), b"w" * 20)
        async with serving(bob):
            [found] = await probe_node(ada.dht, ada.channels, node)
            assert (found.udp_id, found.tls_id) == (bob.identity.peer_id,) * 2
            assert (found.tls, found.wanted_id, found.is_own) == (Tls.OURS, b"w" * 20, False)
            assert found.udp_ms is not None
        [found] = await probe_node(ada.dht, ada.channels, node)
        assert (found.udp_id, found.tls) == (bob.identity.peer_id, Tls.ABSENT)
        [own] = await probe_node(ada.dht, ada.channels, BootstrapNode(address_of(ada)))
        assert own.is_own
        [lost] = await probe_node(
            ada.dht, ada.channels, BootstrapNode(Address("no-such-name.invalid", 4100))
        )
        assert lost.address is None
        with bound(socket.SOCK_STREAM) as mute:
            assert await probe_tls(ada.channels, mute, timeout_s=0.2) == (Tls.SILENT, None)
