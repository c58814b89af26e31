"""How the logs of the packages reach stderr: one line each, tracebacks only when asked for."""

from __future__ import annotations

import logging
import os
import sys

from console.text import escape


def start_logging(*, verbose: bool) -> None:
    """Send warnings, or with ``verbose`` everything, to whatever stderr is at that moment."""
    # gRPC writes its own lines past Python's logging; what matters of them we say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if verbose else "NONE")
    handler = _StderrHandler()
    if verbose:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    logging.getLogger("pika").setLevel(logging.WARNING if verbose else logging.CRITICAL)


class _StderrHandler(logging.Handler):
    """Looks stderr up each time, since the live table stands in for it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):
            self.handleError(record)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        cause = record.exc_info[1] if record.exc_info else None
        ending = f": {type(cause).__name__}: {cause}" if cause is not None else ""
        return escape(f"shoal: {record.getMessage()}{ending}")
