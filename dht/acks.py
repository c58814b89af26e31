"""Signed acknowledgements: what a storer says it did with a batch of records.

Owns the signed body and its check. Must not know sockets, tables or schedules. The signature
covers storer, requester, message id, each record's digest and its verdict: it is of no use for
other records, another request, another peer or another verdict.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dht import wire
from dht.errors import BadAnswer
from dht.storage import Stored, Verdict
from identity.encoding import length_prefixed
from identity.keys import Identity, peer_id_of
from identity.signing import Purpose, verify


@dataclass(frozen=True, slots=True)
class Receipt:
    """A checked acknowledgement: who stored, and what became of each record, in order."""

    storer_id: bytes
    stored: tuple[Stored, ...]


def sign(
    identity: Identity,
    network_id: bytes,
    *,
    requester_id: bytes,
    message_id: bytes,
    encoded: Sequence[bytes],
    stored: Sequence[Stored],
) -> wire.StoredRecords:
    """Build the acknowledgement of a batch."""
    lines = tuple(
        wire.VerdictLine(int(each.verdict), each.sequence, each.our_ms) for each in stored
    )
    body = _body(identity.peer_id, requester_id, message_id, encoded, lines)
    return wire.StoredRecords(lines, identity.sign(Purpose.STORE_ACK, network_id, body))


def check(
    answer: wire.StoredRecords,
    *,
    storer_key: bytes,
    requester_id: bytes,
    message_id: bytes,
    encoded: Sequence[bytes],
    network_id: bytes,
) -> Receipt:
    """Check an acknowledgement against what was sent; BadAnswer where it proves nothing."""
    storer_id = peer_id_of(storer_key)
    if len(answer.verdicts) != len(encoded):
        raise BadAnswer("acknowledges another number of records")
    body = _body(storer_id, requester_id, message_id, encoded, answer.verdicts)
    if not verify(storer_key, answer.signature, Purpose.STORE_ACK, network_id, body):
        raise BadAnswer("the acknowledgement's signature does not hold")
    return Receipt(
        storer_id,
        tuple(
            Stored(_verdict(line.verdict), line.sequence, line.our_ms) for line in answer.verdicts
        ),
    )


def _verdict(number: int) -> Verdict:
    try:
        return Verdict(number)
    except ValueError:
        return Verdict.BAD  # one of a later version: not stored as far as we can tell


def _body(
    storer_id: bytes,
    requester_id: bytes,
    message_id: bytes,
    encoded: Sequence[bytes],
    lines: Sequence[wire.VerdictLine],
) -> bytes:
    digests = [hashlib.sha256(each).digest() for each in encoded]
    verdicts = [wire.pack_body(line) for line in lines]
    return length_prefixed(storer_id, requester_id, message_id, *digests, *verdicts)
