"""How fast this peer moves bytes: one limit each way, shared by gets and by what is sent to peers.

Owns the division: gets have one lane, deliveries (pushed, by mailbox, by broker, kept for others)
the other. Where both want, each has half, so that neither starves. Must not know who moves what.
"""

from __future__ import annotations

import dataclasses

from peer.config import TransferConfig
from rpc.config import RpcConfig
from rpc.pace import BothWays, Pace


@dataclasses.dataclass(frozen=True, slots=True)
class Paces:
    """The lanes of both directions."""

    gets: BothWays
    mail: BothWays

    @classmethod
    def of(cls, config: TransferConfig) -> Paces:
        """Begin the limits that a configuration sets; 0 is none."""
        gets = BothWays(
            Pace(config.upload_bytes_per_s or None), Pace(config.download_bytes_per_s or None)
        )
        return cls(gets, BothWays.beside(gets))

    def moved(self) -> dict[str, int]:
        """Return the bytes moved since the start, by kind and direction."""
        return {
            "gets-up": self.gets.up.moved_bytes,
            "gets-down": self.gets.down.moved_bytes,
            "mail-up": self.mail.up.moved_bytes,
            "mail-down": self.mail.down.moved_bytes,
        }


def rpc_limits(config: TransferConfig) -> RpcConfig:
    """Return how far connections may read ahead of the limit."""
    return RpcConfig(read_bytes_per_s=config.download_bytes_per_s or None)
