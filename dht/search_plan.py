"""Which word keys one search reads, and when it has read enough.

Owns the choice of words and shards. Pure; it must not know lookups, records or storers.

Inputs: `read` (a place was read, and how hot it is). Outputs: `next`, the places to read at once;
none when the search is complete. States: the first word; for a hot one, other words; then shards.

Why that misses nothing: of any words of a name, the first in the order of dht.words is indexed if
one of them is. A name that is missing under the first word's own key was refused there, so it is in
the word's shard. Reading up to three other words costs less than sixteen shards, and finds the same
where one of them is cool, unless names were refused that have more words than are indexed: then
another word may not find them, and the storers say so (Heat.HOT_LONG).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dht.heat import Heat
from dht.payloads import WORD_SHARDS
from dht.words import STOP_WORDS

OTHER_WORDS_MAX = 3
"""Words read besides a hot one."""


@dataclass(frozen=True, slots=True)
class Place:
    """A word's own key (shard 0) or one of its shards."""

    word: str
    shard: int = 0


class SearchPlan:
    """The reads of one search; `words` as `query_of` orders them. Reads each place at most once."""

    def __init__(self, words: Sequence[str]) -> None:
        self._first = Place(words[0])
        telling = [word for word in words[1:] if word not in STOP_WORDS]
        self._others = [Place(word) for word in telling[:OTHER_WORDS_MAX]]
        self._shards = [Place(words[0], 1 + number) for number in range(WORD_SHARDS)]
        self._heats: dict[Place, Heat] = {}

    def read(self, place: Place, heat: Heat) -> None:
        """Note that a place was read, and what its storers agree on."""
        self._heats[place] = heat

    def next(self) -> tuple[Place, ...]:
        """Tell what to read now."""
        return tuple(place for place in self._wanted() if place not in self._heats)

    def _wanted(self) -> Sequence[Place]:
        match self._heats.get(self._first):
            case None:
                return [self._first]
            case Heat.COOL:
                return []
            case Heat.HOT if any(place not in self._heats for place in self._others):
                return self._others
            case Heat.HOT if any(self._heats[place] is Heat.COOL for place in self._others):
                return []
            case _:
                return self._shards
