import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dht.errors import ScheduleFull
from peer.background import Background
from peer.core import Core
from peer.errors import BadInput, NotFound
from peer.fetching import Fetching
from peer.serving import Offered
from peer.sharing import Sharing, check_source
from tests.dht.nodes import until
from tests.peer.cores import address_of, cores_of
from transfer.errors import SourceUnreadable, UnsafeName
from transfer.sources import OpenSource


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob") as cores:
        yield cores


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "blue whale.txt"
    path.write_bytes(b"song")
    return path


def sharing_of(core: Core) -> Sharing:
    sharing = Sharing(core)
    sharing.advertise([address_of(core)])
    return sharing


async def names_seen_by(core: Core, name: str) -> list[bytes]:
    return [found.payload.content_id for found in await core.dht.find_name(name)]


async def test_put_is_found_by_others_at_once_by_name_word_and_content(
    pair: list[Core], path: Path
) -> None:
    ada, bob = pair
    published = await sharing_of(ada).put(path, None)
    share = published.share
    assert published.stored_on == 1
    assert published.replaced is None
    assert await names_seen_by(bob, "blue whale.txt") == [share.content_id]
    assert [hit.filename for hit in await bob.dht.search(["WHALE"])] == ["blue whale.txt"]
    (holder,) = await bob.holders_of_content(share.content_id)
    assert (holder.peer_id, holder.addresses) == (ada.identity.peer_id, (address_of(ada),))


async def test_name_is_published_composed_however_the_file_system_spells_it(
    pair: list[Core], tmp_path: Path
) -> None:
    ada, bob = pair
    path = tmp_path / "cafe\u0301.txt"
    path.write_bytes(b"x")
    published = await sharing_of(ada).put(path, None)
    assert published.share.name == "caf\u00e9.txt"
    assert len(await names_seen_by(bob, "caf\u00e9.txt")) == 1


async def test_put_again_under_the_name_withdraws_what_it_meant(
    pair: list[Core], path: Path
) -> None:
    ada, bob = pair
    sharing = sharing_of(ada)
    first = await sharing.put(path, None)
    path.write_bytes(b"another song")
    second = await sharing.put(path, None)
    assert second.replaced is not None
    assert second.replaced.endswith(first.share.content_id.hex())
    assert await names_seen_by(bob, path.name) == [second.share.content_id]
    assert await bob.holders_of_content(first.share.content_id) == ()
    assert len(ada.catalog.shares()) == 1


async def test_unshare_keeps_the_content_while_another_name_offers_it(
    pair: list[Core], path: Path
) -> None:
    ada, bob = pair
    sharing = sharing_of(ada)
    share = (await sharing.put(path, None)).share
    await sharing.put(path, "second.txt")
    await sharing.unshare(path.name)
    assert await names_seen_by(bob, path.name) == []
    assert await bob.dht.search(["whale"]) == []
    assert len(await bob.holders_of_content(share.content_id)) == 1
    await sharing.unshare("second.txt")
    assert await bob.holders_of_content(share.content_id) == ()
    with pytest.raises(NotFound):
        await sharing.unshare("second.txt")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".", "..", "a\0b", "a\nb", "nul", "x" * 256])
async def test_unsafe_name_is_refused_before_anything_is_offered(
    pair: list[Core], path: Path, name: str
) -> None:
    with pytest.raises(UnsafeName):
        await sharing_of(pair[0]).put(path, name)
    assert pair[0].catalog.shares() == []


async def test_file_that_vanishes_while_it_is_hashed_is_a_clear_error(
    pair: list[Core], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.sharing.check_source", Path.unlink)
    with pytest.raises(SourceUnreadable):
        await sharing_of(pair[0]).put(path, None)
    assert pair[0].catalog.shares() == []


async def test_share_that_cannot_be_published_is_not_kept(
    pair: list[Core], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = pair[0]

    async def full(payloads: object) -> None:
        raise ScheduleFull

    monkeypatch.setattr(ada.dht, "publish", full)
    with pytest.raises(ScheduleFull):
        await sharing_of(ada).put(path, None)
    assert ada.catalog.shares() == []


# After a start


async def test_resume_drops_what_changed_or_went_and_withdraws_it(
    pair: list[Core], tmp_path: Path
) -> None:
    ada, bob = pair
    sharing = sharing_of(ada)
    kept, changed, gone = (tmp_path / f"{name}.txt" for name in ("kept", "changed", "gone"))
    for path in (kept, changed, gone):
        path.write_bytes(path.name.encode())
        await sharing.put(path, None)
    changed.write_bytes(b"other bytes")
    gone.unlink()
    lines = await sharing.resume()
    assert [share.name for share in ada.catalog.shares()] == ["kept.txt"]
    assert len(lines) == 2
    assert any("changed" in line for line in lines)
    assert any("gone.txt: No such file" in line for line in lines)
    for path, count in ((kept, 1), (changed, 0), (gone, 0)):
        assert len(await names_seen_by(bob, path.name)) == count


async def test_resume_leaves_alone_what_was_put_anew_meanwhile(
    pair: list[Core], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = pair
    sharing = sharing_of(ada)
    await sharing.put(path, None)
    path.write_bytes(b"new words")
    looking, looked = asyncio.Event(), asyncio.Event()
    to_thread = asyncio.to_thread

    async def slowly(work: Callable[..., object], *arguments: object) -> object:
        result = await to_thread(work, *arguments)
        if getattr(work, "__name__", "") == "_look":
            looking.set()
            await looked.wait()
        return result

    monkeypatch.setattr("peer.sharing.asyncio.to_thread", slowly)
    resuming = asyncio.create_task(sharing.resume())
    await looking.wait()
    newer = (await sharing.put(path, None)).share
    looked.set()
    assert await resuming == []
    assert ada.catalog.shares() == [newer]
    assert await names_seen_by(bob, path.name) == [newer.content_id]


async def test_changed_file_that_was_asked_for_is_offered_no_longer(
    pair: list[Core], path: Path
) -> None:
    ada, bob = pair
    sharing = sharing_of(ada)
    share = (await sharing.put(path, None)).share
    other = path.with_name("copy.txt")
    other.write_bytes(path.read_bytes())
    await sharing.put(other, None)
    await sharing.drop_changed(share.content_id, path)
    assert [each.name for each in ada.catalog.shares()] == ["copy.txt"]
    assert await names_seen_by(bob, path.name) == []
    assert len(await bob.holders_of_content(share.content_id)) == 1


async def test_served_source_is_the_shared_file_with_its_fingerprint(
    pair: list[Core], path: Path
) -> None:
    ada = pair[0]
    sharing = sharing_of(ada)
    share = (await sharing.put(path, None)).share
    background = Background()
    offered = Offered(ada.catalog, Fetching(ada), sharing, background)
    source = offered.open_source(share.content_id)
    assert source is not None
    opened = OpenSource(source)
    assert opened.read(0, 4) == b"song"
    opened.close()
    assert offered.open_source(b"?" * 32) is None
    offered.source_changed(share.content_id, path)
    await until(lambda: ada.catalog.shares() == [])
    assert offered.open_source(share.content_id) is None
    await background.close()


# What can be shared


def test_what_is_no_file_is_refused_by_its_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in (
        (tmp_path / "pipe", "neither a regular file nor a folder"),
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (Path("/dev/null"), "neither a regular file nor a folder"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(BadInput, match=said):
            check_source(path)


def test_link_to_a_file_can_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_source(tmp_path / "link")
