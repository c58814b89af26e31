"""A search under way: the reads that its plan asks for, a few at a time, and what they found.

Owns driving the plan and filtering. Must not know sockets, ranking or who asks.
"""

import asyncio

from dht.collecting import Hit
from dht.reads import Reader, WordRead
from dht.records import word_key
from dht.search_plan import Place, SearchPlan
from dht.words import Query


async def search_hits_of(
    reader: Reader, network_id: bytes, query: Query, *, records_max: int, reads_max: int
) -> list[Hit]:
    """Read the `word` records that a query asks for; at most reads_max lookups at once.

    One lookup, unless the word turns out to be hot. Ends early with records_max records.
    """
    slots = asyncio.Semaphore(reads_max)

    async def read(place: Place) -> WordRead:
        others = tuple(word for word in query.words if word != place.word)
        key = word_key(network_id, place.word, place.shard)
        async with slots:
            return await reader.read_word(key, words=others, prefix=query.prefix)

    plan = SearchPlan(query.words)
    hits: list[Hit] = []
    while (places := plan.next()) and len(hits) < records_max:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(read(place)) for place in places]
        for place, task in zip(places, reads, strict=True):
            hits += task.result().hits
            plan.read(place, task.result().heat)
    return hits
