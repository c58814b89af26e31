"""Stand-in signatures for simulations that are too large for real ones: same sizes, counted.

Owns the stand-in and the one place where it takes over from Ed25519. Must not know who signs what.
Production has no switch for it: within `stub_signatures` this module replaces the key class that
`identity.signing` checks with, for this process. A stand-in signature is a keyed hash that anybody
can make: good where nobody lies, and used for no scenario in which somebody does.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from unittest import mock

from cryptography.exceptions import InvalidSignature

import identity.signing
from identity.keys import Identity, peer_id_of
from identity.signing import Purpose, signed_bytes

SIGNATURE_BYTES = 64


@dataclass(slots=True)
class SignatureCounts:
    """How often stand-ins were made and checked: what real ones would have cost."""

    made: int = 0
    checked: int = 0


_counts = SignatureCounts()


class StubIdentity(Identity):
    """A peer whose keys are hashes of its seed; it signs with stand-ins."""

    __slots__ = ()

    def __init__(self, seed: bytes) -> None:
        # Not the parent's: real keys are what is to be spared.
        self._seed = seed
        self.public_key = hashlib.blake2b(seed, digest_size=32, person=b"stub public").digest()
        self.sealing_public_key = hashlib.blake2b(seed, digest_size=32, person=b"seal").digest()
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, purpose: Purpose, network_id: bytes, body: bytes) -> bytes:
        """Return 64 bytes that `StubPublicKey` takes for a signature."""
        _counts.made += 1
        return _stand_in(self.public_key, signed_bytes(purpose, network_id, body))


class StubPublicKey:
    """What `identity.signing` uses of an Ed25519 public key, for stand-ins."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key

    @classmethod
    def from_public_bytes(cls, data: bytes) -> Self:
        """Read a key; any 32 bytes are one."""
        return cls(data)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise InvalidSignature unless this key's stand-in for the data is given."""
        _counts.checked += 1
        if signature != _stand_in(self._public_key, data):
            raise InvalidSignature


@contextlib.contextmanager
def stub_signatures() -> Iterator[SignatureCounts]:
    """Let stand-ins count as signatures within the block, and nothing else."""
    _counts.made = _counts.checked = 0
    with mock.patch.object(identity.signing, "Ed25519PublicKey", StubPublicKey):
        yield _counts


def _stand_in(public_key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SIGNATURE_BYTES, key=public_key).digest()
