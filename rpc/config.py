"""The limits of this peer's gRPC, and the channel arguments that carry them out.

Owns: every number of this package. Must not know: services, peers, addresses.
"""

from collections.abc import Sequence

import msgspec

Options = Sequence[tuple[str, str | int]]

WINDOW_S = 0.1
WINDOW_MIN_BYTES = 64 * 1024
WINDOW_MAX_BYTES = 4 * 1024 * 1024


class RpcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits; a ValueError when they make no sense."""

    message_bytes_max: int = 4 * 1024 * 1024
    """Largest message taken or sent; frames of file data are far smaller."""
    concurrent_calls_max: int = 512
    """Calls served at once by the listener; more are refused as exhausted."""
    streams_per_connection_max: int = 64
    """Calls at once that one connection may hold open."""
    keepalive_time_s: float = 15.0
    """Silence after which a connection with open calls is tested."""
    keepalive_timeout_s: float = 10.0
    """How long that test may stay unanswered before the connection counts as dead."""
    idle_s: float = 120.0
    """Time without calls after which a channel gives its connection up."""
    handshake_timeout_s: float = 10.0
    """How long a newcomer may take over TLS and the first HTTP/2 bytes."""
    stagger_s: float = 0.25
    """Head start of one address of a peer over the next (RFC 8305)."""
    addresses_max: int = 8
    """Addresses of one peer that one connect tries."""
    channels_max: int = 256
    """Channels kept open; beyond it the longest unused goes."""
    pins_max: int = 2_048
    """Leaves remembered, so that a reconnect needs no discovery."""
    eviction_grace_s: float = 30.0
    """How long calls may go on over a channel that had to make room."""
    read_bytes_per_s: int | None = None
    """The limit of what is read, None for none: a connection then reads little ahead of it."""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ValueError(f"{field.name} must be positive")


def window_bytes(read_bytes_per_s: int) -> int:
    """Return how much a stream takes in before anybody reads it, under a limit of what is read."""
    return max(WINDOW_MIN_BYTES, min(WINDOW_MAX_BYTES, int(read_bytes_per_s * WINDOW_S)))


def channel_options(config: RpcConfig) -> Options:
    """Channel arguments of every client channel."""
    return (
        # gRPC obeys https_proxy even on loopback, and would reach nobody by it.
        ("grpc.enable_http_proxy", 0),
        # Own connections: a shared one would share the backoff of another channel's failure.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.client_idle_timeout_ms", _ms(config.idle_s)),
        *_common_options(config),
    )


def server_options(config: RpcConfig) -> Options:
    """Channel arguments of the listener."""
    return (
        # On by default, and then two peers silently share one port.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", config.streams_per_connection_max),
        # Clients give idle connections up themselves; this is for those that never made a call.
        ("grpc.max_connection_idle_ms", 2 * _ms(config.idle_s)),
        ("grpc.server_handshake_timeout_ms", _ms(config.handshake_timeout_s)),
        # Without these a client's keepalive is answered with "too many pings".
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(config.keepalive_time_s) // 2),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(config.keepalive_time_s) // 2),
        *_common_options(config),
    )


def _common_options(config: RpcConfig) -> Options:
    return (
        *_window_options(config.read_bytes_per_s),
        ("grpc.max_receive_message_length", config.message_bytes_max),
        ("grpc.max_send_message_length", config.message_bytes_max),
        ("grpc.keepalive_time_ms", _ms(config.keepalive_time_s)),
        ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
    )


def _window_options(read_bytes_per_s: int | None) -> Options:
    """Keep a sender from filling a window that grows with the line, where we read slowly.

    What is in the window has come over the line already, whoever reads when: by itself gRPC takes
    in megabytes. A tenth of a second is enough for the limit on lines with that round trip.
    """
    if read_bytes_per_s is None:
        return ()
    window = window_bytes(read_bytes_per_s)
    return (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", window))


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)


CHANNEL_OPTIONS = channel_options(RpcConfig())
SERVER_OPTIONS = server_options(RpcConfig())
