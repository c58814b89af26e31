"""`get -o -`: a finished temporary file goes to stdout and is gone."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from console.output import Output

_COPY_BYTES = 1024 * 1024


class StdoutFile:
    """Takes the events of a get; `write` then streams what it fetched."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._file: BinaryIO | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "result":
            path = Path(event["result"]["path"])
            self._file = path.open("rb")
            path.unlink()  # at once: whatever happens to us, nothing stays behind
        else:
            self._output.event("get", event)

    def write(self) -> None:
        self._output.close()
        if self._file is None:
            return
        with self._file as source:
            shutil.copyfileobj(source, sys.stdout.buffer, _COPY_BYTES)
        sys.stdout.buffer.flush()
