"""`explain`: make the lookup that a search, a get or a delivery would make, and tell each step.

Owns what the argument means, the traced read, and finding out whether the publishers answer. What
the account comes to is peer.explanation's; how it looks, the console's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import assert_never

from dht.errors import BadQuery
from dht.heat import Heat
from dht.records import Kind, content_key, name_key, nickname_key, peer_key, word_key
from dht.tracing import (
    Account,
    Answered,
    Asked,
    Began,
    Ended,
    Event,
    Failed,
    Held,
    Recorder,
    Refused,
)
from dht.words import query_of
from identity.address import Address
from peer.arguments import Arguments
from peer.core import Core
from peer.errors import BadInput, NotFound
from peer.explanation import (
    Question,
    Reach,
    Surroundings,
    explain_view,
    hop_views,
    publishers_of,
)
from peer.fetching import Fetching
from peer.presence import Presence
from peer.reporting import Reporter
from rpc.errors import RpcError

SETTLE_S = 0.5
"""How much longer than a call may take its end is waited for, so that the silent are told."""
PUBLISHERS_ASKED_MAX = 16
REACH_TIMEOUT_S = 4.0
PROBE_TIMEOUT_S = 2.0
WORD_HINT = "`shoal explain --word WORD` explains a search, `shoal explain NAME` a name"
NOT_FOUND_HINTS = {
    "name": "names match exactly: `shoal explain --word WORD` looks for a word of it",
    "content": "nobody who is here shares it; it may come back with a holder",
    "word": "words match whole: a part of a word finds nothing",
    "peer": "it never published here, or is away for more than 30 days",
    "nickname": "`shoal peers` lists the peers that are known",
}


class Explaining:
    """The command `explain` of a running peer."""

    def __init__(self, core: Core, fetching: Fetching, presence: Presence) -> None:
        self._core = core
        self._fetching = fetching
        self._presence = presence

    async def explain(self, arguments: Arguments, reporter: Reporter) -> None:
        """Send each hop, then what it came to; NotFound after that where it came to nothing."""
        question = await self._question(arguments)
        account, hot = await self._look_up(question)
        own = self._core.dht.engine.own
        nicknames = {each.peer_id: each.nickname for each in self._presence.named()}
        around = Surroundings(
            None if own.client else own.peer_id,
            self._core.dht.config.lookup.k,
            nicknames | {own.peer_id: own.nickname},
            hot,
        )
        reached: Mapping[bytes, Reach] = {}
        if question.kind != "word":  # a word has many publishers, and a search asks none of them
            reached = await self._reach_all(publishers_of(account.copies))
        for hop in hop_views(account, question.key, around):
            await reporter.item(hop)
        view = explain_view(question, account, around, reached)
        await reporter.result(view)
        if not view.found:
            raise NotFound(
                f"no {question.kind} record of {question.what!r} is found",
                hint=NOT_FOUND_HINTS[question.kind],
            )

    # What is asked

    async def _question(self, arguments: Arguments) -> Question:
        what = arguments.take("what", str)
        if arguments.get("word", bool):
            return self._word_question(what)
        if arguments.get("peer", bool):
            return await self._peer_question(what)
        network_id = self._core.file.network.network_id
        if what.startswith("b3:"):
            try:
                content_id = self._fetching.wanted_by_id(what).content_id
            except (NotFound, BadInput):
                pass  # a file may be named like an id
            else:
                key = content_key(network_id, content_id)
                return Question(what, "content", key, (Kind.CONTENT,))
        return Question(what, "name", name_key(network_id, what), (Kind.NAME,))

    def _word_question(self, what: str) -> Question:
        try:
            query = query_of([what])
        except BadQuery as error:
            raise BadInput(str(error), hint=WORD_HINT) from error
        first, *others = query.words
        key = word_key(self._core.file.network.network_id, first)
        return Question(first, "word", key, (Kind.WORD,), tuple(others), query.prefix)

    async def _peer_question(self, what: str) -> Question:
        network_id = self._core.file.network.network_id
        try:
            peer_id = await self._presence.resolve(what)
        except NotFound:
            return Question(what, "nickname", nickname_key(network_id, what), (Kind.PEER,))
        return Question(what, "peer", peer_key(network_id, peer_id), (Kind.PEER,))

    # The lookup

    async def _look_up(self, question: Question) -> tuple[Account, bool]:
        """Read with every step recorded; wait for the silent too, so that they are told apart.

        Also tells whether a word is hot.
        """
        recorder, settled = Recorder(), asyncio.Event()

        def hear(event: Event) -> None:
            recorder(_stamped(event))
            if recorder.is_settled:
                settled.set()

        hot = False
        if question.kind == "word":
            words, prefix = question.words, question.prefix
            found = await self._core.dht.read_word(question.key, words, prefix, trace=hear)
            hot = found.heat is not Heat.COOL
        else:
            await self._core.dht.read(question.key, question.kinds, trace=hear)
        try:
            async with asyncio.timeout(self._core.dht.config.call_timeout_s + SETTLE_S):
                await settled.wait()
        except TimeoutError:
            pass  # the account says who is waited for
        return recorder.account(), hot

    # The publishers

    async def _reach_all(
        self, publishers: Mapping[bytes, Sequence[Address]]
    ) -> Mapping[bytes, Reach]:
        asked = list(publishers.items())[:PUBLISHERS_ASKED_MAX]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._reach(*each)) for each in asked]
        return {peer_id: task.result() for (peer_id, _), task in zip(asked, tasks, strict=True)}

    async def _reach(self, peer_id: bytes, hints: Sequence[Address]) -> Reach:
        """Find a publisher as a download would: over UDP first, then over TLS."""
        if peer_id == self._core.identity.peer_id:
            return Reach(True)
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                located = await self._core.locate(peer_id, hints)
                if not located:
                    return Reach(False, trouble="it answers at no address that is known of it")
                met = await self._core.channels.probe(located[0], timeout_s=PROBE_TIMEOUT_S)
        except TimeoutError:
            return Reach(False, trouble="it does not answer in time")
        except RpcError as error:
            return Reach(False, located[0], f"it answers over UDP, but not over TCP: {error}")
        if met != peer_id:
            return Reach(False, located[0], "another peer answers there over TCP")
        return Reach(True, located[0])


def _stamped(event: Event) -> Event:
    """Give an event a finer time than the loop's: uvloop's clock counts milliseconds."""
    match event:
        case Began() | Asked() | Answered() | Failed() | Ended():
            return dataclasses.replace(event, at_s=time.perf_counter())
        case Held() | Refused():
            return event
        case _:
            assert_never(event)
