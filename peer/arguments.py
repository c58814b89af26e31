"""The arguments of one command, as they come over the control socket.

Owns their checks: an older or newer `shoal` may be on the other end. Must not know any command.
"""

from __future__ import annotations

from typing import Any, TypeVar

from peer.errors import BadInput

TEXTS_MAX = 10_000

Argument = TypeVar("Argument")


class Arguments:
    """The arguments of one command, taken by name and type; raises BadInput."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def take(self, name: str, kind: type[Argument]) -> Argument:
        """Return an argument that must be there."""
        value = self.get(name, kind)
        if value is None:
            raise BadInput(f"the command lacks {name!r}")
        return value

    def get(self, name: str, kind: type[Argument]) -> Argument | None:
        """Return an argument, or None where it is missing or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise BadInput(f"{name!r} is no {kind.__name__}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty where it is missing."""
        values = self.get(name, list) or []
        if len(values) > TEXTS_MAX or not all(isinstance(value, str) for value in values):
            raise BadInput(f"{name!r} is no list of texts")
        return values
