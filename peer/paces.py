"""How fast this peer moves bytes: one limit each way, shared by gets and by what is sent to peers.

Owns the division: gets have one lane, deliveries (pushed, by mailbox, by broker, kept for others)
the other. Where both want, each has half, so that neither starves. Must not know who moves what.
"""

from __future__ import annotations

import dataclasses

from peer.config import TransferConfig
from rpc.pace import Pace


@dataclasses.dataclass(frozen=True, slots=True)
class Paces:
    """The lanes of both directions."""

    gets_up: Pace
    gets_down: Pace
    mail_up: Pace
    mail_down: Pace

    @classmethod
    def of(cls, config: TransferConfig) -> Paces:
        """Begin the limits that a configuration sets; 0 is none."""
        up = Pace(config.upload_bytes_per_s or None)
        down = Pace(config.download_bytes_per_s or None)
        return cls(up, down, Pace(beside=up), Pace(beside=down))

    def moved(self) -> dict[str, int]:
        """Return the bytes moved since the start, by direction and kind."""
        return {
            "gets-up": self.gets_up.moved_bytes,
            "gets-down": self.gets_down.moved_bytes,
            "mail-up": self.mail_up.moved_bytes,
            "mail-down": self.mail_down.moved_bytes,
        }
