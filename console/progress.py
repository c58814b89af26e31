"""Progress bars on stderr, only where a person looks at it; rich is loaded with the first bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from console.text import escape, plural

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Bars beyond this many share the last line's place: they are simply not drawn.
_BARS_MAX = 16


class Bars:
    """One bar a file and phase; does nothing when not shown."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self._stream = stream
        self._shown = shown
        self._progress: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def update(self, event: Mapping[str, Any]) -> None:
        """Take a progress event: name, phase, done_bytes, size_bytes, peers, files_done, files."""
        if not self._shown:
            return
        if self._progress is None:
            self._progress = _start(self._stream)
        key = (str(event.get("name", "")), str(event.get("phase", "")))
        peers, files = int(event.get("peers", 0)), int(event.get("files", 0))
        came_from = f"from {plural(peers, 'peer')}" if peers else ""
        of_files = f"{int(event.get('files_done', 0)):,} of {files:,} files" if files else ""
        fields: dict[str, Any] = {
            "completed": int(event.get("done_bytes", 0)),
            "total": int(event.get("size_bytes", 0)) or None,
            "label": f"{escape(key[1])} {escape(key[0])}".strip(),
            "peers": "  ".join(filter(None, (of_files, came_from))),
        }
        if key in self._tasks:
            self._progress.update(self._tasks[key], **fields)
        elif len(self._tasks) < _BARS_MAX:
            self._tasks[key] = self._progress.add_task("", **fields)

    def stop(self) -> None:
        """Take the bars away; the next update begins new ones."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()


def _start(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.fields[label]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[peers]}", markup=False),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(file=stream, emoji=False), transient=True)
    progress.start()
    return progress
