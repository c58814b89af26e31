"""Which word keys had no room: marks at the storer, and what a reader makes of several storers.

Owns how hot a key is, how long that is remembered, and how many storers must say so. Pure; it must
not know records, caps or who is asked. A key is hot from the time a `word` record was refused there
for want of room; its publisher then has it under a shard of the key (docs/protocol/records.md,
"Hot words"), and the record that was refused would have lived for a day: so does the mark.
"""

import enum
from collections import OrderedDict
from collections.abc import Sequence

HOT_MS = 24 * 60 * 60 * 1000
HOT_KEYS_MAX = 4_096
"""Marks kept; past it the oldest goes. A key is hot only while a whole group is full under it."""
READER_SHARE = 4
"""A reader believes in the heat that one of so many of the closest storers tells."""
PUBLISHER_SHARE = 2
"""A publisher uses a shard where one of so many storers that judged the record had no room."""


class Heat(enum.IntEnum):
    """How complete the set of a word's records is; the number is what the wire carries."""

    COOL = 0
    """Nothing was refused for want of room."""
    HOT = 1
    """Records were refused, of names all of whose words are indexed."""
    HOT_LONG = 2
    """Some were of names with more words than are indexed: other words may not find them."""


class HotKeys:
    """The marks of one storer. Invariants: at most HOT_KEYS_MAX; a mark only ever gets later."""

    def __init__(self) -> None:
        # Until when a key is hot, and until when it is hot for long names.
        self._marks: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._marks)

    def refused(self, key: bytes, *, is_long: bool, now_ms: int) -> None:
        """Note that a record under this key found no room."""
        hot_ms, long_ms = self._marks.pop(key, (0, 0))
        until_ms = now_ms + HOT_MS
        self._marks[key] = (max(hot_ms, until_ms), max(long_ms, until_ms) if is_long else long_ms)
        while len(self._marks) > HOT_KEYS_MAX:
            self._marks.popitem(last=False)

    def heat_of(self, key: bytes, *, now_ms: int) -> Heat:
        """Tell how hot a key is."""
        hot_ms, long_ms = self._marks.get(key, (0, 0))
        if now_ms < long_ms:
            return Heat.HOT_LONG
        return Heat.HOT if now_ms < hot_ms else Heat.COOL


_HEATS = {int(heat): heat for heat in Heat}


def heat_of_number(number: int) -> Heat:
    """Read a number off the wire; one of a later version asks for the most care."""
    return _HEATS.get(number, Heat.HOT_LONG)


def agreed(heats: Sequence[Heat]) -> Heat:
    """Conclude from the closest storers: the greatest heat that a quarter of them tell.

    A record is in a shard only if half of its storers refused it, so that a few liars can neither
    make a key hot nor cool it. Nobody at all is cool.
    """
    for heat in (Heat.HOT_LONG, Heat.HOT):
        if sum(told >= heat for told in heats) * READER_SHARE >= max(1, len(heats)):
            return heat
    return Heat.COOL


def needs_shard(refused: int, stored: int) -> bool:
    """Tell whether so many storers without room, against so many that took it, call for a shard."""
    return refused > 0 and refused * PUBLISHER_SHARE >= refused + stored
