"""`explain` as the peer runs it: real DHT nodes in this process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from identity.keys import show_peer_id
from peer.arguments import Arguments
from peer.core import Core
from peer.errors import BadInput, NotFound
from peer.explaining import Explaining
from peer.fetching import Fetching
from peer.presence import Presence
from peer.reporting import Reporter
from peer.sharing import Sharing
from tests.peer.cores import Heard, cores_of, serving
from transfer.manifest import show_content_id

Cores = list[Core]


@pytest.fixture
async def cores(tmp_path: Path) -> AsyncIterator[Cores]:
    async with cores_of(tmp_path, "ada", "bob", "carol") as cores:
        yield cores


async def put(sharing: Sharing, folder: Path, name: str) -> str:
    path = folder / "source"
    path.write_bytes(b"song")
    return show_content_id((await sharing.put(path, name)).share.content_id)


async def explain(core: Core, what: str, **flags: bool) -> dict[str, Any]:
    """The summary, with the hops under `hops`; also where nothing is found."""
    heard = Heard()
    explaining = Explaining(core, Fetching(core), Presence(core))
    with contextlib.suppress(NotFound):
        await explaining.explain(Arguments({"what": what, **flags}), Reporter(heard.emit))
    (result,) = heard.of("result")
    return {**result, "hops": heard.of("item")}


async def test_name_is_explained_by_hops_records_and_a_holder_that_answers(
    cores: Cores, tmp_path: Path
) -> None:
    ada, bob, carol = cores
    async with serving(bob) as sharing:
        content_id = await put(sharing, tmp_path, "a.txt")
        told = await explain(ada, "a.txt")
    assert {hop["id"] for hop in told["hops"]} == {
        show_peer_id(core.identity.peer_id) for core in (bob, carol)
    }
    assert {hop["nickname"] for hop in told["hops"]} == {"bob", "carol"}
    (record,) = told["records"]
    assert (record["content_id"], record["nickname"]) == (content_id, "bob")
    assert (record["on_closest"], told["closest"], told["found"]) == (3, 3, 1)
    assert (record["reachable"], record["trouble"]) == (True, "")


async def test_holder_that_answers_over_udp_only_is_told_apart(
    cores: Cores, tmp_path: Path
) -> None:
    ada, bob, _ = cores
    async with serving(bob) as sharing:
        await put(sharing, tmp_path, "a.txt")
    (record,) = (await explain(ada, "a.txt"))["records"]
    assert record["reachable"] is False
    assert "over UDP, but not over TCP" in record["trouble"]


async def test_id_word_and_peer_are_looked_up_as_such(cores: Cores, tmp_path: Path) -> None:
    ada, bob, _ = cores
    async with serving(bob) as sharing:
        content_id = await put(sharing, tmp_path, "Blue Whale.txt")
        assert (await explain(ada, content_id))["kind"] == "content"
        by_word = await explain(ada, "whale blue", word=True)
        assert (await explain(ada, "whale bl*", word=True))["found"] == 1
        assert (await explain(ada, "whale or*", word=True))["found"] == 0
    assert (by_word["kind"], by_word["found"]) == ("word", 1)
    assert [record["reachable"] for record in by_word["records"]] == [None]
    by_id = await explain(ada, show_peer_id(bob.identity.peer_id), peer=True)
    assert (by_id["kind"], by_id["found"]) == ("peer", 0), "a core publishes no peer record"
    assert (await explain(ada, "nobody", peer=True))["kind"] == "nickname"


async def test_beginning_of_an_id_that_is_not_known_here_is_a_name(cores: Cores) -> None:
    told = await explain(cores[0], "b3:00000000")
    assert (told["kind"], told["found"]) == ("name", 0)


async def test_nothing_found_is_an_error_after_the_account(cores: Cores) -> None:
    heard = Heard()
    explaining = Explaining(cores[0], Fetching(cores[0]), Presence(cores[0]))
    with pytest.raises(NotFound):
        await explaining.explain(Arguments({"what": "nothing"}), Reporter(heard.emit))
    assert len(heard.of("item")) == 2
    assert heard.of("result")[0]["found"] == 0
    with pytest.raises(BadInput):
        await explaining.explain(Arguments({"what": "--", "word": True}), Reporter(heard.emit))


async def test_silent_contact_is_told_as_silent(cores: Cores) -> None:
    ada, bob, carol = cores
    await carol.dht.close()
    told = await explain(ada, "nothing")
    outcomes = {hop["id"]: hop["outcome"] for hop in told["hops"]}
    assert outcomes == {
        show_peer_id(bob.identity.peer_id): "answered",
        show_peer_id(carol.identity.peer_id): "silent",
    }
    assert (told["answered"], told["silent"]) == (1, 1)
