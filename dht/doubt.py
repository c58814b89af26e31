"""How far candidates are believed: shares of address blocks, and what tellers are worth.

Owns the two defences of a lookup against made-up and clustered candidates. Pure; must not know
distances, requests or time: `dht.lookup` says what failed and what answered.

An id costs nothing, a made-up contact neither; a public address block does. So places are shared
out by block (`spread`), a block whose candidates fail must wait (`Doubts`), and a peer
whose named candidates fail is no longer believed (`Teller`). All three only put candidates behind
others: where there are no others, as in a small network or one within one block, nothing changes.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dht.candidates import Candidate, LookupConfig

Item = TypeVar("Item")


class Trial(enum.Enum):
    """What became of asking at one address."""

    PENDING = "pending"
    FAILED = "failed"
    ANSWERED = "answered"


_FAILED, _ANSWERED = Trial.FAILED, Trial.ANSWERED
"""Looked up once: `told_by` is called hundreds of times a lookup."""


@dataclass(slots=True, eq=False)
class Account:
    """What became of the candidates of one address block, or of those that one teller named."""

    failures_max: int
    failures: int = 0
    answers: int = 0

    @property
    def is_overdrawn(self) -> bool:
        """Whether too many have failed, and more than have answered.

        An honest peer names the dead, too, and an honest block has them, but seldom more of them
        than of the living.
        """
        return self.failures >= self.failures_max and self.failures > self.answers


@dataclass(slots=True, eq=False)
class Hint:
    """One address at which a candidate may be, and who says so."""

    candidate: Candidate
    block: str
    is_ours: bool = False
    """From our own table: never doubted."""
    tellers: list[Account] = field(default_factory=list)
    trial: Trial = Trial.PENDING

    def told_by(self, teller: Account, tellers_max: int) -> None:
        """Note one more teller; what became of the address already counts for it at once."""
        trial = self.trial
        if trial is _ANSWERED:
            teller.answers += 1
        elif trial is _FAILED:
            teller.failures += 1
        if len(self.tellers) < tellers_max:
            self.tellers.append(teller)


class Doubts:
    """Keep the accounts of tellers and public address blocks.

    Inputs: `told`, `failed`, `bad`, `answered`. Outputs: `is_doubtful`, `named`. Invariant: each
    hint counts once; one that answers after all is taken back.
    While nothing has failed nobody is doubted, so that what was told is only noted down; the first
    failure has it entered into the accounts, in order.
    """

    def __init__(self, config: LookupConfig) -> None:
        self._config = config
        self._blocks: dict[str, Account] = {}
        self._notes: list[tuple[Account | None, Sequence[Hint]]] | None = []
        """Who told of whom, and (teller None) who answered; None: all is entered at once."""
        self.any_failed = False

    def teller(self) -> Account:
        """Open the account of a peer that names candidates."""
        return Account(self._config.teller_failures_max)

    def told(self, teller: Account, hints: Sequence[Hint]) -> None:
        """Note that a peer named these, which others did before."""
        if self._notes is not None:
            self._notes.append((teller, hints))
            return
        for hint in hints:
            hint.told_by(teller, self._config.tellers_max)

    def named(self, hint: Hint) -> int:
        """Return how many tellers of a hint are remembered."""
        self._enter_notes()
        return len(hint.tellers)

    def failed(self, hint: Hint) -> None:
        """Note that nobody (or somebody else) answered at a hint's address."""
        if hint.trial is Trial.PENDING:
            self._enter_notes()
            hint.trial = Trial.FAILED
            self._count_failure(hint, 1)

    def answered(self, hint: Hint) -> None:
        """Note that the candidate answered at a hint's address, late perhaps."""
        if hint.trial is _ANSWERED:
            return
        if self._notes is not None:
            self._notes.append((None, (hint,)))
        else:
            if hint.trial is _FAILED:
                self._count_failure(hint, -1)
            self._count_answer(hint)
        hint.trial = _ANSWERED

    def bad(self, hint: Hint) -> None:
        """Note a reply that is a lie: whoever named its sender told the truth all the same."""
        self._enter_notes()
        if hint.trial is Trial.FAILED:
            self._count_failure(hint, -1)
        hint.trial = Trial.PENDING
        if hint.block:
            self.any_failed = True
            self._block(hint).failures += 1

    def is_doubtful(self, hint: Hint) -> bool:
        """Say whether a candidate not yet heard comes after all others.

        It does when all who name it are overdrawn, or its block is. More tellers than the block
        has failures outweigh that: a liar who names dead addresses in an honest peer's block does
        not hide a peer whom its neighbours know.
        """
        if hint.is_ours or not self.any_failed:
            return False
        for teller in hint.tellers:
            if not teller.is_overdrawn:
                break
        else:
            return True
        block = self._blocks.get(hint.block)
        if block is None or not block.is_overdrawn:
            return False
        return len(hint.tellers) <= block.failures

    def _enter_notes(self) -> None:
        """Enter what was noted down into the accounts, as if it happened now in the same order."""
        notes, self._notes = self._notes, None
        answered: set[Hint] = set()
        for teller, hints in notes or ():
            for hint in hints:
                if teller is None:
                    self._count_answer(hint)
                    answered.add(hint)
                    continue
                teller.answers += hint in answered
                if len(hint.tellers) < self._config.tellers_max:
                    hint.tellers.append(teller)

    def _count_answer(self, hint: Hint) -> None:
        for teller in hint.tellers:
            teller.answers += 1
        if hint.block:
            self._block(hint).answers += 1

    def _count_failure(self, hint: Hint, change: int) -> None:
        self.any_failed = True
        for teller in hint.tellers:
            teller.failures += change
        if hint.block:
            self._block(hint).failures += change

    def _block(self, hint: Hint) -> Account:
        account = self._blocks.get(hint.block)
        if account is None:
            account = self._blocks[hint.block] = Account(self._config.block_failures_max)
        return account


def is_spread(blocks: Sequence[str], block_contacts_max: int) -> bool:
    """Say whether at most so many share a public address block: then `spread` takes them all."""
    public = [block for block in blocks if block]
    if not public or len(set(public)) == len(public):
        return True
    return max(Counter(public).values()) <= block_contacts_max


def spread(
    ordered: Iterable[Item],
    count: int,
    *,
    block_of: Callable[[Item], str],
    block_contacts_max: int,
) -> list[Item]:
    """Choose the first `count` items of which at most so many share a public address block.

    Where there are fewer, the others fill up, in order; the choice keeps the order given.
    """
    shares: dict[str, int] = {}
    chosen: list[tuple[int, Item]] = []
    others: list[tuple[int, Item]] = []
    for place in enumerate(ordered):
        if len(chosen) >= count:
            break
        block = block_of(place[1])
        share = shares.get(block, 0)
        if block and share >= block_contacts_max:
            if len(others) < count:
                others.append(place)
            continue
        shares[block] = share + 1
        chosen.append(place)
    if others and len(chosen) < count:
        chosen.extend(others[: count - len(chosen)])
        chosen.sort(key=lambda place: place[0])
    return [item for _, item in chosen]
