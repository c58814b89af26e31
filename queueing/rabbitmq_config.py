"""Limits and times of the RabbitMQ backend.

Owns the one struct of them. Must not know pika.
"""

from pathlib import Path

import msgspec

AHEAD_S = 0.5
"""Under a limit of rate the broker may hand over as much as is read in this time,"""
MESSAGE_BYTES = 512 * 1024
"""in messages of the usual size;"""
AHEAD_MIN = 2
"""and in any case the next one, while one is made durable."""


class RabbitConfig(msgspec.Struct, frozen=True):
    """How the RabbitMQ backend behaves; the defaults suit a near broker."""

    connect_timeout_s: float = 5.0
    """How long to wait for TCP, TLS and AMQP to be up."""
    heartbeat_s: int = 30
    """After two of these without a sign of life either side gives the connection up."""
    blocked_timeout_s: float = 10.0
    """How long a publisher waits while the broker's memory or disk alarm is on."""
    confirm_timeout_s: float = 60.0
    """How long without any confirm until a publisher gives the connection up."""
    window_max: int = 64
    """Published chunks that may be unconfirmed at a time, of all deposits together."""
    window_bytes_max: int = 32 * 1024 * 1024
    """Their size; one chunk may always be under way."""
    prefetch_max: int = 96
    """Messages that the broker may hand over before they are on this peer's disk."""
    batch_max: int = 32
    """How many of those are made durable together, while the broker hands over the others."""
    drains_max: int = 8
    """Queues that are read at once, each over a connection of its own; a desk reads for many."""
    reconnects_max: int = 12
    """How often one operation connects again after the connection was lost under way."""
    refusals_max: int = 5
    """How often what a cluster's queue refused is sent again: its leader may just be elected."""
    reconnect_base_s: float = 0.2
    """Upper end of the first random pause; it doubles."""
    reconnect_pause_max_s: float = 5.0
    """Upper end of any pause."""
    staging_bytes_max: int = 64 * 1024**3
    """Sealed chunks that may lie in the staging folder."""
    disk_floor_bytes: int = 256 * 1024**2
    """This much of the disk stays free: nothing more is taken off the broker."""
    ca_file: Path | None = None
    """The authority that signed the broker's certificate; None: those that the system trusts."""
    receipt_grace_s: float = 7 * 24 * 3600
    """How long a receipt outlives its delivery, for senders that come back late."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        counts = (
            self.window_max,
            self.window_bytes_max,
            self.prefetch_max,
            self.batch_max,
            self.heartbeat_s,
            self.drains_max,
        )
        times = (self.connect_timeout_s, self.blocked_timeout_s, self.confirm_timeout_s)
        if min(counts) < 1 or min(times) <= 0 or self.prefetch_max > 65_535:
            raise ValueError("limits and times of the queue must be positive")


def limited(config: RabbitConfig, rate_bytes_per_s: int | None) -> RabbitConfig:
    """Return the limits under a rate at which messages may come: then few are handed over ahead."""
    if rate_bytes_per_s is None:
        return config
    ahead = int(rate_bytes_per_s * AHEAD_S) // MESSAGE_BYTES
    return msgspec.structs.replace(
        config, prefetch_max=max(AHEAD_MIN, min(config.prefetch_max, ahead))
    )
