"""Dials of strangers: others' words make no flood, and a healthy network does not notice."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dht import wire
from dht.dialling import DialLimits
from dht.hints import pack_contact
from dht.limits import DialConfig
from dht.lookup import Candidate
from identity.address import Address
from tests.dht.nodes import nodes_of

CONFIG = DialConfig()
PUBLIC = Address("8.8.8.8", 4100)


def dials(limits: DialLimits, address: Address, until_s: float, step_s: float = 0.5) -> list[float]:
    """When a stranger that never answers is dialled, if hints name it all the time."""
    moments = []
    for number in range(int(until_s / step_s)):
        now = number * step_s
        if limits.allows(address, now=now):
            moments.append(now)
            limits.silent(address, now=now)
    return moments


def test_silent_stranger_is_left_alone_ever_longer() -> None:
    moments = dials(DialLimits(), PUBLIC, 3_600.0)
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert max(pauses) == CONFIG.again_max_s
    assert len(moments) < 20


def test_many_ports_of_one_host_are_no_way_around() -> None:
    limits = DialLimits()
    dialled = 0
    for number in range(60_000):
        now = number / 1_000
        address = Address("8.8.8.8", 1 + number)
        if limits.allows(address, now=now):
            dialled += 1
            limits.silent(address, now=now)
    rate = CONFIG.public_host
    assert dialled <= rate.burst_max + rate.rate_hz * 60.0 + 1


def test_many_hosts_together_are_dialled_at_a_bounded_rate_and_memory_is_bounded() -> None:
    limits = DialLimits()
    dialled = 0
    for number in range(20_000):
        now = number / 1_000
        address = Address(f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4100)
        if limits.allows(address, now=now):
            dialled += 1
            limits.silent(address, now=now)
    assert dialled <= CONFIG.strangers.burst_max + CONFIG.strangers.rate_hz * 20.0 + 1
    assert len(limits) <= CONFIG.silent_max + 2 * 4_096


@given(st.lists(st.integers(0, 40), max_size=300))
def test_who_answers_costs_nothing(hosts: list[int]) -> None:
    """A healthy network of any size is dialled as fast as lookups want, from a fresh start too."""
    limits = DialLimits(DialConfig(silent_max=4))
    for number, host in enumerate(hosts * 20):
        address = Address(f"8.8.{host}.1", 1 + number % 60_000)
        assert limits.allows(address, now=0.0)
        limits.answered(address)


def test_own_machine_has_no_limit_for_a_host_but_silent_ports_are_left_alone() -> None:
    limits = DialLimits()
    ports = [Address("127.0.0.1", 1 + number) for number in range(500)]
    assert all(limits.allows(each, now=0.0) for each in ports)
    for each in ports:
        limits.silent(each, now=0.0)
    assert not any(limits.allows(each, now=1.0) for each in ports)


async def test_lying_reply_makes_us_dial_few_strangers_and_each_but_once() -> None:
    async with nodes_of(2) as [node, liar]:
        victims = [Address("8.8.8.8", 1_000 + number) for number in range(400)]
        turn = iter(range(10**9))

        def lie(body, asker_id, *where):
            first = next(turn) * 20
            named = [victims[(first + n) % len(victims)] for n in range(20)]
            packed = [
                pack_contact(body.key[:18] + n.to_bytes(2, "big"), each)
                for n, each in enumerate(named)
            ]
            return wire.FoundRecords((), b"", tuple(each for each in packed if each))

        liar.engine.desk.find = lie
        real = node.engine.protocol.send
        dialled: Counter[Address] = Counter()

        def watch(plain: bytes, address: Address) -> None:
            if address.host == "8.8.8.8":
                dialled[address] += 1
            else:
                real(plain, address)

        node.engine.protocol.send = watch
        to = Candidate(liar.peer_id, Address("127.0.0.1", liar.bound.port))
        for number in range(12):
            found = await node.engine.caller.find(to, wire.FindRecords(bytes([number]) * 20))
            assert len(found.contacts) == 20
            async with asyncio.timeout(10.0):
                await node.closest_peers(bytes([number]) * 20)
        rate = node.config.dials.public_host
        assert 0 < len(dialled) <= rate.burst_max + rate.rate_hz * 60.0
        assert max(dialled.values()) <= 2, "the request and its repeat"
        assert node.counters()["dial-limited"] > 0
