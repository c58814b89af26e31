"""What bench.transfer asks of every system, and what it is told. Owns both; knows no system."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class NotMeasured(Exception):  # noqa: N818 - what it is
    """The system cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is moved: one file, or a folder of many."""

    path: Path
    size_bytes: int
    files: int
    digest: bytes

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of one end took during a transfer."""

    cpu_s: float
    rss_bytes: int
    """The most that one of them had in memory at a time."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How one transfer went."""

    seconds: float
    sender: Usage
    receiver: Usage
    result: Path | None
    """What arrived, to be compared; None where a system keeps nothing."""
    first_byte_s: float | None = None
    """From the request to the first byte in the file, where it was watched."""


class Mover(Protocol):
    """A way to get a file or folder from one process to another."""

    name: str

    def version(self) -> str:
        """Name and version of what is measured."""

    def move(self, load: Load, folder: Path) -> Moved:
        """Move a load into a folder, with fresh processes that have ended on return.

        Raises NotMeasured where it cannot do such a load.
        """
