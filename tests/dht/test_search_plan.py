"""Which keys a search reads: whatever is hot, no name is missed, and few are read."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dht.heat import Heat
from dht.payloads import WORD_SHARDS
from dht.search_plan import OTHER_WORDS_MAX, Place, SearchPlan
from dht.words import indexed_words, is_fully_indexed, query_of, words_of

VOCABULARY = ["whale", "song", "blue", "orca", "the", "pdf", *"abcdefgh"]
names = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=13, unique=True).map(" ".join)


class World:
    """Storers as one: each word key has room for some names, the rest go to its shards."""

    def __init__(self, filenames: list[str], room: int, rng: random.Random) -> None:
        self.held: dict[Place, set[str]] = {}
        self.heats: Counter[str] = Counter()
        for filename in filenames:
            for word in indexed_words(filename):
                own = self.held.setdefault(Place(word), set())
                if len(own) < room:
                    own.add(filename)
                    continue
                shard = Place(word, rng.randint(1, WORD_SHARDS))
                self.held.setdefault(shard, set()).add(filename)
                heat = Heat.HOT if is_fully_indexed(filename) else Heat.HOT_LONG
                self.heats[word] = max(self.heats[word], heat)

    def search(self, words: list[str]) -> tuple[set[str], list[tuple[Place, ...]]]:
        query = query_of(words)
        plan = SearchPlan(query.words)
        found: set[str] = set()
        rounds: list[tuple[Place, ...]] = []
        while places := plan.next():
            rounds.append(places)
            for place in places:
                held = self.held.get(place, set())
                found |= {name for name in held if set(query.words) <= set(words_of(name))}
                plan.read(place, Heat.COOL if place.shard else Heat(self.heats[place.word]))
        return found, rounds


@given(
    st.lists(names, min_size=1, max_size=12, unique=True),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_a_search_finds_every_name_one_of_whose_indexed_words_it_has(
    filenames: list[str], room: int, rng: random.Random, data: st.DataObject
) -> None:
    world = World(filenames, room, rng)
    chosen = data.draw(st.sampled_from(filenames))
    words = data.draw(st.lists(st.sampled_from(chosen.split()), min_size=1, unique=True))
    found, rounds = world.search(words)
    expected = {
        name
        for name in filenames
        if set(words) <= set(words_of(name)) and set(words) & set(indexed_words(name))
    }
    assert found == expected
    read = [place for places in rounds for place in places]
    assert len(read) == len(set(read)) <= 1 + OTHER_WORDS_MAX + WORD_SHARDS


def test_a_cool_word_takes_one_read() -> None:
    plan = SearchPlan(["whale", "song"])
    assert plan.next() == (Place("whale"),)
    plan.read(Place("whale"), Heat.COOL)
    assert plan.next() == ()


def test_a_hot_word_gives_way_to_cool_ones_and_stop_words_are_not_tried() -> None:
    plan = SearchPlan(query_of(["lecture", "the", "notes", "on", "whale", "song", "sea"]).words)
    plan.read(Place("lecture"), Heat.HOT)
    assert plan.next() == (Place("notes"), Place("whale"), Place("song"))
    plan.read(Place("notes"), Heat.HOT)
    plan.read(Place("whale"), Heat.HOT_LONG)
    assert plan.next() == (Place("song"),)
    plan.read(Place("song"), Heat.COOL)
    assert plan.next() == ()


def test_shards_are_read_where_nothing_else_is_sure_to_find() -> None:
    shards = tuple(Place("lecture", shard) for shard in range(1, WORD_SHARDS + 1))
    alone = SearchPlan(["lecture"])
    alone.read(Place("lecture"), Heat.HOT)
    assert alone.next() == shards
    long = SearchPlan(["lecture", "notes"])
    long.read(Place("lecture"), Heat.HOT_LONG)
    assert long.next() == shards
    all_hot = SearchPlan(["lecture", "notes"])
    all_hot.read(Place("lecture"), Heat.HOT)
    all_hot.read(Place("notes"), Heat.HOT)
    assert all_hot.next() == shards
    for shard in shards:
        all_hot.read(shard, Heat.HOT)
    assert all_hot.next() == ()
