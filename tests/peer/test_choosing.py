"""What an argument of `get` means when it could mean more than one thing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from peer.arguments import Arguments
from peer.commands import FetchCommands
from peer.errors import AmbiguousName, NotFound
from peer.fetching import Fetching
from peer.presence import Presence
from peer.reporting import Reporter
from peer.sharing import Sharing
from tests.peer.cores import Heard, cores_of, serving


async def test_file_named_like_a_content_id_is_fetched_by_its_name(tmp_path: Path) -> None:
    async with cores_of(tmp_path, "ada", "bob") as (ada, bob), serving(bob) as bobs:
        source = tmp_path / "source"
        source.write_bytes(b"song")
        await bobs.put(source, "b3:12345678.txt")
        fetching = Fetching(ada)
        wanted = await fetching.wanted("b3:12345678.txt", None, _nobody)
        assert wanted.name == "b3:12345678.txt"
        with pytest.raises(NotFound):
            await fetching.wanted("b3:99999999", None, _nobody)


async def test_contents_to_choose_from_are_listed_one_by_one(tmp_path: Path) -> None:
    async with (
        cores_of(tmp_path, "ada", "bob", "eve") as (ada, bob, eve),
        serving(bob) as bobs,
        serving(eve) as eves,
    ):
        for sharing, text in ((bobs, b"one"), (eves, b"other")):
            source = tmp_path / text.decode()
            source.write_bytes(text)
            await sharing.put(source, "a.txt")
        heard = Heard()
        commands = FetchCommands(ada, Fetching(ada), Presence(ada))
        with pytest.raises(AmbiguousName) as caught:
            await commands.get(
                Arguments({"what": "a.txt", "folder": str(tmp_path)}), Reporter(heard.emit)
            )
        assert "2 contents" in str(caught.value)
        assert sorted(item["size"] for item in heard.of("item")) == [3, 5]


async def test_two_gets_of_one_content_to_two_targets_both_end(tmp_path: Path) -> None:
    async with cores_of(tmp_path, "ada", "bob") as (ada, bob), serving(bob) as bobs:
        source = tmp_path / "source"
        source.write_bytes(bytes(range(256)) * 8192)
        await bobs.put(source, "a.bin")
        fetching = Fetching(ada)
        wanted = await fetching.wanted("a.bin", None, _nobody)
        targets = [tmp_path / "one", tmp_path / "two"]
        await asyncio.gather(
            *(
                fetching.download(wanted, target, overwrite=False, timeout_s=None)
                for target in targets
            )
        )
        assert [target.read_bytes() for target in targets] == [source.read_bytes()] * 2
        assert fetching.running == {}


async def test_file_put_twice_replaces_nothing(tmp_path: Path) -> None:
    async with cores_of(tmp_path, "ada") as (ada,):
        mine = tmp_path / "mine"
        mine.write_bytes(b"mine")
        sharing = Sharing(ada)
        first = await sharing.put(mine, "a.txt")
        again = await sharing.put(mine, "a.txt")
        assert again.replaced is None
        assert again.share.content_id == first.share.content_id


async def _nobody(text: str) -> bytes:
    raise AssertionError(f"no peer was named, but {text!r} was looked up")
