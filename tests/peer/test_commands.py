"""`search` and `get` as the peer runs them: real DHT, real transfers, both ends in this process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from identity.keys import show_peer_id
from peer.arguments import Arguments
from peer.commands import FetchCommands
from peer.core import Core
from peer.errors import Ambiguous, BadInput, NoHolderReachable, NotFound
from peer.fetching import Fetching
from peer.presence import Presence
from peer.reporting import Reporter
from peer.sharing import Sharing
from tests.peer.cores import Heard, cores_of, serving
from tests.transfer.peers import CHUNK, random_bytes
from transfer.errors import BadContent, TargetExists
from transfer.manifest import show_content_id


class Pair:
    """Bob, who shares, and Ada, who gets."""

    def __init__(self, ada: Core, bob: Core, bobs: Sharing, folder: Path) -> None:
        self.ada, self.bob, self.bobs, self.folder = ada, bob, bobs, folder
        self.adas = Sharing(ada)

    async def put(self, content: bytes, name: str = "a.txt", sharing: Sharing | None = None) -> str:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.source"
        path.write_bytes(content)
        published = await (sharing or self.bobs).put(path, name)
        return show_content_id(published.share.content_id)

    async def get(self, what: str = "a.txt", **arguments: Any) -> Heard:
        heard = Heard()
        commands = FetchCommands(
            self.ada, Fetching(self.ada), Presence(self.ada), sharing=self.adas
        )
        values: dict[str, Any] = {"what": what, "folder": str(self.folder), **arguments}
        await commands.get(Arguments(values), Reporter(heard.emit))
        return heard


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    folder = tmp_path / "files"
    folder.mkdir()
    async with (
        cores_of(tmp_path / "homes", "ada", "bob") as (ada, bob),
        serving(bob) as bobs,
    ):
        yield Pair(ada, bob, bobs, folder)


async def test_get_by_name_brings_the_file_and_shares_it_on(pair: Pair) -> None:
    content_id = await pair.put(b"song")
    (result,) = (await pair.get()).of("result")
    assert (result["name"], result["size"], result["content_id"]) == ("a.txt", 4, content_id)
    assert result["source_bytes"] == {show_peer_id(pair.bob.identity.peer_id): 4}
    assert Path(result["path"]).read_bytes() == b"song"
    (offer,) = await Fetching(pair.bob).offers_named("a.txt")
    assert len(offer.holders) == 2


async def test_get_by_the_beginning_of_a_listed_id(pair: Pair) -> None:
    content_id = await pair.put(b"song")
    with pytest.raises(NotFound):
        await pair.get(content_id[:11])
    await Fetching(pair.ada).search(["txt"], 10)
    (result,) = (await pair.get(content_id[:11], share=False)).of("result")
    assert (result["name"], result["content_id"]) == ("a.txt", content_id)


@pytest.mark.parametrize("what", ["a.txt@bob", "a.txt@BOB8", "me@home.txt"])
async def test_name_at_peer_means_that_peers_file_unless_a_file_has_the_whole_name(
    pair: Pair, what: str
) -> None:
    await pair.put(b"song")
    await pair.put(b"at home", "me@home.txt")
    short = show_peer_id(pair.bob.identity.peer_id)[:8]
    (result,) = (await pair.get(what.replace("BOB8", short))).of("result")
    assert result["name"] == ("me@home.txt" if "home" in what else "a.txt")


async def test_several_contents_under_a_name_are_listed_and_from_chooses(
    pair: Pair, tmp_path: Path
) -> None:
    one = await pair.put(b"one")
    async with serving(pair.ada) as adas:
        other = await pair.put(b"other", sharing=adas)
        with pytest.raises(Ambiguous) as caught:
            await pair.get()
        assert one in str(caught.value)
        assert other in str(caught.value)
        (result,) = (await pair.get(share=False, **{"from": "bob"})).of("result")
    assert result["content_id"] == one
    with pytest.raises(NotFound):
        await pair.get("b.txt", **{"from": "bob"})


async def test_own_share_under_the_name_is_not_replaced_by_what_was_fetched(pair: Pair) -> None:
    own = await pair.put(b"mine", sharing=pair.adas)
    await pair.put(b"bob's")
    heard = await pair.get(**{"from": "bob"})
    assert Path(heard.of("result")[0]["path"]).read_bytes() == b"bob's"
    (share,) = pair.ada.catalog.shares()
    assert show_content_id(share.content_id) == own
    assert any("not shared on" in note["text"] for note in heard.of("note"))


async def test_share_whose_file_is_gone_makes_room_for_what_was_fetched(pair: Pair) -> None:
    await pair.put(b"song", sharing=pair.adas)
    (share,) = pair.ada.catalog.shares()
    share.path.unlink()
    await pair.put(b"song")
    (result,) = (await pair.get(**{"from": "bob"})).of("result")
    (share,) = pair.ada.catalog.shares()
    assert str(share.path) == result["path"]


async def test_shared_file_that_a_get_replaces_stays_shared(pair: Pair) -> None:
    await pair.put(b"song")
    await pair.get()
    await pair.get(overwrite=True)
    assert await pair.adas.resume() == []
    assert len(pair.ada.catalog.shares()) == 1


async def test_existing_target_stays_as_it_is(pair: Pair) -> None:
    await pair.put(b"song")
    target = pair.folder / "a.txt"
    target.write_bytes(b"mine")
    with pytest.raises(TargetExists):
        await pair.get()
    assert target.read_bytes() == b"mine"


async def test_get_for_stdout_leaves_one_file_and_shares_nothing(pair: Pair) -> None:
    await pair.put(b"song")
    (result,) = (await pair.get(stdout=True)).of("result")
    assert Path(result["path"]).read_bytes() == b"song"
    assert Path(result["path"]).parent.stat().st_mode & 0o077 == 0
    assert pair.ada.catalog.shares() == []


async def test_get_for_stdout_tells_a_verified_beginning_while_the_rest_comes(
    tmp_path: Path,
) -> None:
    data = random_bytes(6 * CHUNK)
    source = tmp_path / "a.txt"
    source.write_bytes(data)
    beginnings: list[int] = []

    async def emit(event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            with contextlib.suppress(FileNotFoundError):  # it may be finished by now
                assert Path(event["path"]).read_bytes()[: event["bytes"]] == data[: event["bytes"]]
            beginnings.append(event["bytes"])

    async with (
        cores_of(tmp_path / "homes", "ada", "bob") as (ada, bob),
        serving(bob, upload_bytes_per_s=6 * CHUNK) as bobs,
    ):
        await bobs.put(source, None)
        commands = FetchCommands(ada, Fetching(ada), Presence(ada))
        await commands.get(Arguments({"what": "a.txt", "stdout": True}), Reporter(emit))
    assert beginnings == sorted(set(beginnings))
    assert 0 < beginnings[0] < len(data)
    assert len(beginnings) >= 3


async def test_get_for_stdout_that_fails_leaves_nothing_behind(pair: Pair) -> None:
    await pair.put(b"song" * 100_000)
    pair.bob.catalog.shares()[0].path.write_bytes(b"changed")
    with contextlib.suppress(Exception):
        await pair.get(stdout=True, timeout_s=1.0)
    left = [path.name for path in (pair.ada.home.path / "run").iterdir()]
    assert [name for name in left if not name.startswith(("lock", "control"))] == []


async def test_liar_is_named_though_the_get_fails(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.fetching.GIVE_UP_S", 0.2)
    await pair.put(b"song")
    (share,) = pair.bob.catalog.shares()
    share.path.write_bytes(b"gong")  # the lie: other bytes, and a fingerprint that fits them
    mtime_ns = share.path.stat().st_mtime_ns
    pair.bob.database.run("UPDATE share SET mtime_ns = ?", mtime_ns)
    heard = Heard()
    commands = FetchCommands(pair.ada, Fetching(pair.ada), Presence(pair.ada))
    with pytest.raises(BadContent):
        await commands.get(
            Arguments({"what": "a.txt", "folder": str(pair.folder)}),
            Reporter(heard.emit),
        )
    (note,) = heard.of("note")
    assert show_peer_id(pair.bob.identity.peer_id) in note["text"]
    assert not (pair.folder / "a.txt").exists()


async def test_unsafe_name_of_a_record_never_becomes_a_path(pair: Pair) -> None:
    content_id = await pair.put(b"song")
    offers = await Fetching(pair.ada).offers_named("a.txt")
    assert len(offers) == 1
    pair.ada.database.run("UPDATE listed SET name = '../evil'")
    with pytest.raises(Exception, match="unsafe file name"):
        await pair.get(content_id)
    assert not (pair.folder.parent / "evil").exists()


async def test_content_whose_holder_is_gone_is_found_but_unreachable(
    tmp_path: Path,
) -> None:
    (tmp_path / "files").mkdir()
    async with cores_of(tmp_path / "homes", "ada", "bob", "eve") as (ada, bob, _):
        async with serving(bob) as bobs:
            pair = Pair(ada, bob, bobs, tmp_path / "files")
            await pair.put(b"song")
        await bob.dht.close()
        with pytest.raises(NoHolderReachable):
            await pair.get(timeout_s=1.0)


async def test_what_is_no_timeout_no_content_id_or_no_word_is_a_usage_error(pair: Pair) -> None:
    await pair.put(b"song")
    for timeout_s in (0, -1, float("nan"), float("inf"), "5"):
        with pytest.raises(BadInput):
            await pair.get(timeout_s=timeout_s)
    for what in ("b3:", "b3:zz", "b3:1234567", "b3:" + "0" * 65):
        with pytest.raises(BadInput):
            await pair.get(what)
    for words in ([], ["..."], ["-", "_"], [""]):
        with pytest.raises(BadInput):
            await Fetching(pair.ada).search(words, 10)


def test_arguments_are_checked_by_name_and_type() -> None:
    arguments = Arguments({"a": 1, "b": "x", "c": ["x", 1], "d": None})
    assert arguments.take("a", float) == 1.0
    assert arguments.get("d", str) is None
    assert arguments.texts("missing") == []
    for wrong in (
        lambda: arguments.take("b", int),
        lambda: arguments.take("missing", str),
        lambda: arguments.texts("c"),
        lambda: arguments.texts("b"),
    ):
        with pytest.raises(BadInput):
            wrong()
