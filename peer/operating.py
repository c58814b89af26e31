"""What an operator's machinery asks of a peer: metrics for Prometheus, and gRPC health.

Owns two listeners, both on loopback and both off unless a port is given. Must not know what the
figures mean: it is handed a view of them. Loaded in the operator's role only.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from peer.errors import BadInput
from peer.options import OperatorOptions
from peer.views import StatusView
from queueing.store import Usage

LOOPBACK = "127.0.0.1"
SCRAPE_TIMEOUT_S = 5.0
HEALTH_STOP_S = 0.5
SERVICE = "shoal.Peer"
"""The name under which health is told, besides the empty one for the whole process."""


class Operated(Protocol):
    """The running peer as this module needs it; called on the event loop."""

    def status(self) -> StatusView: ...

    async def mail_usage(self) -> Usage | None: ...

    def mail_counters(self) -> Mapping[str, int]: ...


@asynccontextmanager
async def operated(
    options: OperatorOptions, peer: Operated, note: Callable[[str], None]
) -> AsyncIterator[Callable[[bool], Awaitable[None]]]:
    """Serve metrics and health around a peer's life; the value tells whether the peer is ready."""
    ready = _Readiness()
    stop_metrics = None
    if options.metrics_port is not None:
        stop_metrics = _serve_metrics(options.metrics_port, peer, ready, note)
    try:
        async with _serving_health(options.health_port, ready, note):
            yield ready.tell
    finally:
        if stop_metrics is not None:
            await asyncio.to_thread(stop_metrics)


class _Readiness:
    """Whether the peer is between its ready line and its leave."""

    def __init__(self) -> None:
        self.is_ready = False
        self.servicer: health.aio.HealthServicer | None = None

    async def tell(self, is_ready: bool) -> None:
        self.is_ready = is_ready
        if self.servicer is not None:
            await self.servicer.set("", _serving(is_ready))
            await self.servicer.set(SERVICE, _serving(is_ready))


def _serving(is_ready: bool) -> Any:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if is_ready else status.NOT_SERVING


@asynccontextmanager
async def _serving_health(
    port: int | None, ready: _Readiness, note: Callable[[str], None]
) -> AsyncIterator[None]:
    if port is None:
        yield
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    ready.servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(ready.servicer, server)
    try:
        bound = server.add_insecure_port(f"{LOOPBACK}:{port}")
    except RuntimeError as error:
        raise _taken(port, "--health") from error
    await ready.tell(False)
    await server.start()
    note(f"gRPC health at {LOOPBACK}:{bound}")
    try:
        yield
    finally:
        await server.stop(HEALTH_STOP_S)


def _serve_metrics(
    port: int, peer: Operated, ready: _Readiness, note: Callable[[str], None]
) -> Callable[[], None]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(asyncio.get_running_loop(), peer, ready))
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _taken(port, "--metrics") from error
    note(f"metrics at http://{LOOPBACK}:{server.server_port}/metrics")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        assert isinstance(thread, threading.Thread)
        thread.join(SCRAPE_TIMEOUT_S)

    return stop


def _taken(port: int, option: str) -> BadInput:
    return BadInput(f"the port {port} on loopback is taken", hint=f"give another by {option}")


class _Figures:
    """A collector: reads the figures on the event loop when Prometheus asks, in its own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: Operated, ready: _Readiness) -> None:
        self._loop = loop
        self._peer = peer
        self._ready = ready

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: that would ask a peer that is not ready."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what there is now; before and after the peer's life only that it is not up."""
        yield GaugeMetricFamily("shoal_ready", "1 between ready and leave", float(self._is_ready))
        if not self._is_ready:
            return
        asked = asyncio.run_coroutine_threadsafe(self._read(), self._loop)
        status, usage, counters = asked.result(SCRAPE_TIMEOUT_S)
        yield from _of_status(status)
        yield from _of_mail(usage, counters)

    @property
    def _is_ready(self) -> bool:
        return self._ready.is_ready and not self._loop.is_closed()

    async def _read(self) -> tuple[StatusView, Usage | None, Mapping[str, int]]:
        return self._peer.status(), await self._peer.mail_usage(), self._peer.mail_counters()


def _of_status(status: StatusView) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, float | None]] = {
        "shoal_uptime_seconds": ("Since the start", status.uptime_s),
        "shoal_peers_active": ("Known peers that answer", status.peers_active),
        "shoal_peers_known": ("Known peers", status.peers_known),
        "shoal_contacts": ("Peers in the routing table", status.contacts),
        "shoal_records": ("Records kept for others", status.records),
        "shoal_clock_offset_seconds": ("How far others say we are behind",
                                       status.clock_offset_ms / 1000),
        "shoal_loop_lag_seconds_max": ("Latest of the event loop, last minute",
                                       status.loop_lag_ms_max / 1000),
        "shoal_reachable": ("1: others reach this peer", float(status.reachability == "yes")),
    }  # fmt: skip
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value)
    yield _counter("shoal_lookups", "Lookups since the start", status.lookups)
    times = GaugeMetricFamily(
        "shoal_lookup_seconds", "Of the last 256 lookups", labels=["quantile"]
    )
    for quantile, value_ms in (("0.5", status.lookup_ms_p50), ("0.95", status.lookup_ms_p95)):
        if value_ms is not None:
            times.add_metric([quantile], value_ms / 1000)
    yield times
    yield _labelled("shoal_drops", "Refused, lost or left out", "reason", status.drops)
    yield _labelled("shoal_moved_bytes", "Bytes of gets and mail", "what", status.moved)
    yield _labelled("shoal_traffic", "What went as it should", "what", status.traffic)


def _of_mail(usage: Usage | None, counters: Mapping[str, int]) -> Iterator[Metric]:
    if usage is not None:
        yield GaugeMetricFamily("shoal_mail_deliveries", "Kept for others", usage.deliveries)
        yield GaugeMetricFamily("shoal_mail_bytes", "Kept for others", usage.bytes)
        yield GaugeMetricFamily("shoal_mail_limit_bytes", "Room for others", usage.limit_bytes)
    yield _labelled("shoal_queue", "What happened with the broker", "what", counters)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, count in counts.items():
        family.add_metric([key], count)
    return family
