"""The key that is a peer, and the peer id that is its name.

Owns: the 32-byte seed, all keys made from it, and the text form of peer ids.
Must not know: networks, certificates, nicknames.
"""

import base64
import binascii
import hashlib
import secrets
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from identity.errors import BadKeyFile, InvalidPeerId
from identity.files import create_private, read_private
from identity.signing import Purpose, signed_bytes

PEER_ID_BYTES = 20
PEER_ID_CHARS = 32
SHORT_PEER_ID_CHARS = 8
SEED_BYTES = 32
SEALING_INFO = b"shoal/sealing/1"


class Identity:
    """A peer's keys: Ed25519 to sign, X25519 to be written to, both from one seed."""

    __slots__ = (
        "_seed",
        "_signing_key",
        "peer_id",
        "public_key",
        "sealing_private_key",
        "sealing_public_key",
    )

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadKeyFile(f"a key is {SEED_BYTES} bytes, not {len(seed)}")
        sealing_seed = HKDF(SHA256(), SEED_BYTES, salt=None, info=SEALING_INFO).derive(seed)
        self._seed = seed
        self._signing_key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._signing_key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_key)
        self.sealing_private_key = X25519PrivateKey.from_private_bytes(sealing_seed)
        self.sealing_public_key = self.sealing_private_key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Make a new identity that is kept nowhere."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Make the identity of a seed of 32 bytes; raises BadKeyFile."""
        return cls(seed)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Load the identity from its file, or create both; an existing file is never overwritten.

        Raises BadKeyFile when the file is malformed, unreadable, or cannot be created.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            pass
        seed = secrets.token_bytes(SEED_BYTES)
        try:
            create_private(path, seed)
        except FileExistsError:  # another process was faster: its key is the key
            return cls._load(path)
        except OSError as error:
            raise BadKeyFile(
                f"cannot create {path}: {error.strerror or error}",
                hint="choose a folder that you may write to, with --home",
            ) from error
        return cls(seed)

    def sign(self, purpose: Purpose, network_id: bytes, body: bytes) -> bytes:
        """Return the 64 bytes of signature over the body, for one purpose in one network."""
        return self._signing_key.sign(signed_bytes(purpose, network_id, body))

    def __repr__(self) -> str:
        return f"Identity({show_peer_id(self.peer_id)})"  # never the seed

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            seed = read_private(path, SEED_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BadKeyFile(f"cannot read {path}: {error.strerror or error}") from error
        if len(seed) != SEED_BYTES:
            raise BadKeyFile(f"{path} does not hold a key of {SEED_BYTES} bytes")
        return cls(seed)


def peer_id_of(public_key: bytes) -> bytes:
    """Return the 20-byte peer id of an Ed25519 public key."""
    return hashlib.sha256(public_key).digest()[:PEER_ID_BYTES]


def show_peer_id(peer_id: bytes) -> str:
    """Return the 32 characters by which a peer id is written."""
    return base64.b32encode(peer_id).decode().lower()


def short_peer_id(peer_id: bytes) -> str:
    """Return the 8 characters that a person reads."""
    return show_peer_id(peer_id)[:SHORT_PEER_ID_CHARS]


def parse_peer_id(text: str) -> bytes:
    """Read a peer id in full, in either case; raises InvalidPeerId."""
    if len(text) != PEER_ID_CHARS or "=" in text:  # padding would make a shorter id
        raise InvalidPeerId(f"{text[: 2 * PEER_ID_CHARS]!r} is not a peer id")
    try:
        return base64.b32decode(text.encode("ascii"), casefold=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidPeerId(f"{text!r} is not a peer id") from error
