import ipaddress
import socket
from collections import Counter

import pytest

from identity.address import Address
from peer import addresses as addresses_module
from peer.addresses import (
    DEFAULT_PORT,
    PORTS_TRIED_MAX,
    advertised_addresses,
    bind_one_port,
)
from peer.errors import BadInput
from rpc.errors import CannotListen, PortInUse


class Ports:
    """A machine whose taken ports are known; port 0 gives 5000, 5001, ..."""

    def __init__(self, tcp: set[int], udp: set[int]) -> None:
        self.taken = {"tcp": tcp, "udp": udp}
        self.bound: dict[str, int] = {}
        self.tries: Counter[str] = Counter()
        self.given = 4_999

    async def bind_udp(self, host: str, port: int) -> int:
        if port == 0:
            self.given += 1
            port = self.given
        return self._bind("udp", port)

    async def bind_tcp(self, host: str, port: int) -> int:
        return self._bind("tcp", port)

    async def unbind_udp(self) -> None:
        del self.bound["udp"]

    def _bind(self, kind: str, port: int) -> int:
        self.tries[kind] += 1
        assert kind not in self.bound, "bound twice"
        if port in self.taken[kind]:
            raise PortInUse(f"{kind} {port}")
        self.bound[kind] = port
        return port

    async def take(self, listen: Address | None) -> int:
        return await bind_one_port(
            listen,
            bind_first=self.bind_udp,
            unbind_first=self.unbind_udp,
            bind_second=self.bind_tcp,
            in_use=(PortInUse,),
        )


def listen_at(port: int) -> Address:
    # Port 0 is no address of a peer, but what a person may ask for.
    return Address("127.0.0.1", port)


async def test_default_is_the_first_port_free_for_both() -> None:
    ports = Ports(tcp={DEFAULT_PORT}, udp={DEFAULT_PORT + 1})
    assert await ports.take(None) == DEFAULT_PORT + 2
    assert ports.bound == {"tcp": DEFAULT_PORT + 2, "udp": DEFAULT_PORT + 2}


async def test_port_that_was_asked_for_is_taken_or_refused_and_nothing_else() -> None:
    assert await Ports(set(), set()).take(listen_at(7000)) == 7000
    for ports in (Ports({7000}, set()), Ports(set(), {7000})):
        with pytest.raises(PortInUse):
            await ports.take(listen_at(7000))
        assert ports.tries["udp"] == 1
        assert ports.bound == {}


async def test_port_zero_takes_one_number_that_is_free_for_both() -> None:
    ports = Ports(tcp={5000, 5001}, udp=set())
    assert await ports.take(listen_at(0)) == 5002
    assert ports.bound == {"tcp": 5002, "udp": 5002}


async def test_search_for_a_port_ends() -> None:
    ports = Ports(set(range(65_536)), set())
    for listen in (None, listen_at(0)):
        ports.tries.clear()
        with pytest.raises(PortInUse):
            await ports.take(listen)
        assert ports.tries["udp"] == PORTS_TRIED_MAX
        assert ports.bound == {}


async def test_other_failure_ends_the_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = Ports(set(), set())

    async def fail(host: str, port: int) -> int:
        ports.tries["tcp"] += 1
        raise CannotListen

    monkeypatch.setattr(ports, "bind_tcp", fail)
    with pytest.raises(CannotListen):
        await ports.take(None)
    assert ports.tries["tcp"] == 1


# What others are told


def test_address_that_was_asked_for_is_told_alone() -> None:
    asked = Address("203.0.113.9", 4200)
    assert advertised_addresses("0.0.0.0", 4100, asked) == (asked,)


def test_name_is_told_as_its_addresses_since_others_believe_no_names() -> None:
    for told in (
        advertised_addresses("0.0.0.0", 4100, Address("localhost", 0)),
        advertised_addresses("localhost", 4100, None),
    ):
        assert told
        assert {each.host for each in told} <= {"127.0.0.1", "::1"}
        assert {each.port for each in told} == {4100}
    with pytest.raises(BadInput, match="no address"):
        advertised_addresses("0.0.0.0", 4100, Address("nowhere.invalid", 4100))


def test_advertised_host_without_a_port_means_the_one_we_listen_on() -> None:
    assert advertised_addresses("0.0.0.0", 4100, Address("203.0.113.9", 0)) == (
        Address("203.0.113.9", 4100),
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.7"])
def test_peer_that_listens_at_one_address_tells_it(host: str) -> None:
    assert advertised_addresses(host, 4100, None) == (Address(host, 4100),)


def test_wildcard_tells_the_default_routes_address_of_each_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes = {socket.AF_INET: "192.0.2.7", socket.AF_INET6: "2001:db8::7"}
    monkeypatch.setattr(addresses_module, "_route_address", routes.get)
    assert advertised_addresses("0.0.0.0", 4100, None) == (Address("192.0.2.7", 4100),)
    assert advertised_addresses("::", 4100, None) == (
        Address("192.0.2.7", 4100),
        Address("2001:db8::7", 4100),
    )


def test_machine_without_a_route_tells_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses_module, "_route_address", lambda family: None)
    for host in ("0.0.0.0", "::"):
        assert advertised_addresses(host, 4100, None) == (Address("127.0.0.1", 4100),)


def test_this_machines_own_address_is_one_that_others_could_dial() -> None:
    for address in advertised_addresses("::", 4100, None):
        ip = ipaddress.ip_address(address.host)
        undialable = ip.is_unspecified or ip.is_link_local or ip.is_multicast
        assert not undialable
