"""Candidates known by sight: what a reply names is, nearly always, the very objects named before.

Owns the shortcut from a candidate to its hint within one lookup. Pure; must not know what a hint
is worth. Where a peer has several addresses there is no shortcut any more: then it matters which
of them are named.
"""

from collections.abc import Sequence

from dht.candidates import Candidate
from dht.doubt import Hint


class Sights:
    """Find the hints of candidates by their identity.

    Inputs: `know`, `forget`, `give_up`. Output: `hints`. Invariants: at most `sights_max`
    candidates are known, and kept, so that the identity of none becomes that of another.
    """

    def __init__(self, sights_max: int) -> None:
        self._sights_max = sights_max
        self._hints: dict[int, Hint] = {}
        self._kept: list[Candidate] = []
        self._is_of_use = True

    def know(self, candidate: Candidate, hint: Hint) -> None:
        """Know a candidate from now on."""
        if self._is_of_use and len(self._kept) < self._sights_max:
            self._kept.append(candidate)
            self._hints[id(candidate)] = hint

    def forget(self) -> None:
        """Know nobody: some candidates are forgotten by the lookup."""
        self._hints.clear()
        self._kept.clear()

    def give_up(self) -> None:
        """Know nobody ever after: a peer has several addresses."""
        self.forget()
        self._is_of_use = False

    def hints(self, candidates: Sequence[Candidate]) -> list[Hint] | None:
        """Return the hints of candidates that are all known and differ; None: look at each."""
        hints = self._hints
        try:
            known = [hints[id(candidate)] for candidate in candidates]
        except KeyError:
            return None
        return known if len(set(known)) == len(known) else None
