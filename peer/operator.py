"""The door to the operator's listeners, which load nothing where nobody asked for them.

Owns that choice alone; what is served stands in `peer.operating`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from peer.options import OperatorOptions

if TYPE_CHECKING:
    from peer.operating import Operated


async def _nobody_listens(_is_ready: bool) -> None:
    """Stand for an operator who asked for no listener."""


@asynccontextmanager
async def serving_operator(
    options: OperatorOptions | None, peer: Operated, note: Callable[[str], None]
) -> AsyncIterator[Callable[[bool], Awaitable[None]]]:
    """Serve metrics and health around a peer's life; the value takes whether it is ready."""
    if options is None or (options.metrics_port is None and options.health_port is None):
        yield _nobody_listens
        return
    from peer.operating import operated

    async with operated(options, peer, note) as tell_ready:
        yield tell_ready
