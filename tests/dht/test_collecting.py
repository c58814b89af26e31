"""What a read takes from storers: each record checked, the same bytes once only."""

from collections import Counter

import pytest

from dht import collecting
from dht.collecting import TAKEN_SLACK, Collector, Hit
from dht.records import Kind, NamePayload, encode_record, name_key, sign_record
from identity.keys import Identity

NETWORK_ID = b"n" * 20
NOW_MS = 1_700_000_000_000
IDENTITY = Identity.from_seed(b"i" * 32)
NAME = "a.txt"


def encoded(sequence: int = 1, content: bytes = b"c" * 32) -> bytes:
    payload = NamePayload(NAME, content, 1)
    return encode_record(
        sign_record(IDENTITY, NETWORK_ID, payload, sequence=sequence, issued_ms=NOW_MS)
    )


class Read:
    """A collector of one name, its hits and its drops."""

    def __init__(self, records_max: int = 9) -> None:
        self.hits: list[Hit] = []
        self.drops: Counter[str] = Counter()
        self.collector = Collector(
            NETWORK_ID,
            name_key(NETWORK_ID, NAME),
            frozenset({Kind.NAME}),
            records_max=records_max,
            drops=self.drops,
            on_hit=self.hits.append,
        )

    def add(self, data: bytes) -> bool:
        return self.collector.add(data, now_ms=NOW_MS)


def test_the_same_bytes_from_many_storers_are_checked_once(monkeypatch) -> None:
    checked: list[object] = []

    def check(record, network_id, *, now_ms):
        checked.append(record)
        return real(record, network_id, now_ms=now_ms)

    real = collecting.check_record
    monkeypatch.setattr(collecting, "check_record", check)
    read = Read()
    assert [read.add(encoded()) for _ in range(20)] == [True] + [False] * 19
    assert len(checked) == len(read.hits) == 1


@pytest.mark.parametrize("place", [0, 5, 40, 200, -1])
def test_bytes_that_differ_anywhere_are_not_believed_for_those_that_were_checked(place) -> None:
    read = Read()
    assert read.add(encoded(sequence=5))
    forged = bytearray(encoded(sequence=6))
    forged[place] ^= 1
    assert not read.add(bytes(forged))
    assert [record.sequence for record, _ in read.collector.hits()] == [5]


def test_an_older_record_that_was_taken_once_does_not_come_back() -> None:
    read = Read()
    assert [read.add(encoded(sequence)) for sequence in (1, 2, 1)] == [True, True, False]
    assert [record.sequence for record, _ in read.collector.hits()] == [2]


def test_a_publisher_of_ever_newer_records_fills_no_memory() -> None:
    read = Read(records_max=2)
    for sequence in range(1, 30):
        assert read.add(encoded(sequence))
        assert len(read.collector._taken) <= TAKEN_SLACK * 2
    assert not read.add(encoded(29))
