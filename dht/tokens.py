"""Address tokens: a short proof that whoever sends from an address also receives there.

Owns the MAC and its epochs. Knows no socket and no message; the time is given. A reply larger than
its request goes only to an address that shows a token made for it (no amplification).
Source: the tokens of BEP 5 (Mainline DHT), bound to the peer id as well.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from identity.keys import PEER_ID_BYTES

TOKEN_BYTES: Final = 17
"""One byte of epoch, 16 of MAC."""
TOKEN_LIFE_S: Final = 600.0
"""A token is valid for at least half of this and never longer."""
_EPOCH_S: Final = TOKEN_LIFE_S / 2
_MAC_BYTES: Final = TOKEN_BYTES - 1


class AddressTokens:
    """Make and check address tokens under one secret, 16 to 64 random bytes a process.

    Nothing is stored: a token holds for its epoch of 5 minutes and the next one.
    """

    def __init__(self, secret: bytes) -> None:
        assert 16 <= len(secret) <= 64, "a secret of 16 to 64 bytes"
        self._secret = secret

    def make(self, host: str, port: int, peer_id: bytes, now: float) -> bytes:
        """Return the token of this peer at this address, `TOKEN_BYTES` long."""
        assert len(peer_id) == PEER_ID_BYTES, "the codec lets no other id pass"
        epoch = int(now // _EPOCH_S)
        return bytes([epoch & 0xFF]) + self._mac(epoch, host, port, peer_id)

    def valid(self, token: bytes, host: str, port: int, peer_id: bytes, now: float) -> bool:
        """Say whether the token was made for this peer and address not long ago."""
        if len(token) != TOKEN_BYTES or len(peer_id) != PEER_ID_BYTES:
            return False
        current = int(now // _EPOCH_S)
        for epoch in (current, current - 1):
            if token[0] == epoch & 0xFF:
                return hmac.compare_digest(token[1:], self._mac(epoch, host, port, peer_id))
        return False

    def _mac(self, epoch: int, host: str, port: int, peer_id: bytes) -> bytes:
        # Only the host's length varies, and it comes last: no two lists of parts give one body.
        body = (
            epoch.to_bytes(8, "big", signed=True)
            + port.to_bytes(4, "big")
            + peer_id
            + host.encode("utf-8", "surrogatepass")
        )
        return hashlib.blake2b(body, digest_size=_MAC_BYTES, key=self._secret).digest()
