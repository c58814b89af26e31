"""`put` as the running peer does it: groups, order, errors in between, what reading back shows."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dht.storage import Stored, Verdict
from peer.arguments import Arguments
from peer.commands import Commands, PeerFacts
from peer.core import Core
from peer.errors import BadInput
from peer.fetching import Fetching
from peer.presence import Presence
from peer.reporting import Reporter
from peer.sharing import Sharing
from tests.dht.nodes import until
from tests.peer.cores import Heard, address_of, cores_of

NOT_USED: Any = None


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob") as cores:
        await until(lambda: len(cores[0].dht.contacts()) == 1)
        yield cores


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"song {number}.txt" for number in range(7)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


async def put(core: Core, *paths: Path, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    sharing = Sharing(core)
    sharing.advertise([address_of(core)])
    commands = Commands(
        core,
        fetching=Fetching(core),
        sharing=sharing,
        sending=NOT_USED,
        presence=Presence(core),
        facts=PeerFacts(NOT_USED, NOT_USED, NOT_USED, NOT_USED, (), NOT_USED),
    )
    arguments = {"paths": [str(path) for path in paths]}
    await commands._put(Arguments(arguments), Reporter(heard.emit))
    return heard


async def test_many_files_are_published_in_groups_and_told_in_order(
    pair: list[Core], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.commands.PUT_GROUP_MAX", 3)
    groups = []
    publish = pair[0].dht.publish

    async def counted(payloads: Any) -> Any:
        groups.append(len(payloads))
        return await publish(payloads)

    monkeypatch.setattr(pair[0].dht, "publish", counted)
    results = (await put(pair[0], *files)).of("result")
    assert [each["name"] for each in results] == [path.name for path in files]
    assert len(groups) == 3
    for each in results:
        assert (each["stored_on"], each["found_on"], each["closest"]) == (1, 1, 1)
    for path in files:
        assert len(await pair[1].dht.find_name(path.name)) == 1


async def test_of_many_records_a_sample_is_read_back(
    pair: list[Core], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.sharing.READ_BACK_RECORDS_MAX", 3)
    results = (await put(pair[0], *files)).of("result")
    read = [each["closest"] for each in results]
    assert 1 <= read.count(1) <= 3
    assert set(read) == {1, None}


async def test_what_came_before_a_missing_file_is_shared_all_the_same(
    pair: list[Core], files: list[Path]
) -> None:
    heard = Heard()
    with pytest.raises(BadInput):
        await put(pair[0], files[0], files[1], files[0].with_name("none"), heard=heard)
    assert [each["name"] for each in heard.of("result")] == [files[0].name, files[1].name]
    assert len(await pair[1].dht.find_name(files[1].name)) == 1


async def test_two_files_of_one_name_leave_the_later_one(
    pair: list[Core], files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / files[0].name
    other.write_bytes(b"other words")
    results = (await put(pair[0], files[0], other)).of("result")
    found = await pair[1].dht.find_name(files[0].name)
    assert ["b3:" + each.payload.content_id.hex() for each in found] == [results[1]["content_id"]]
    assert len(pair[0].catalog.shares()) == 1


async def test_storer_that_lies_is_noted(pair: list[Core], files: list[Path]) -> None:
    pair[1].dht.engine.desk.store = (  # type: ignore[method-assign]
        lambda encoded, block, sender: [Stored(Verdict.OK)] * len(encoded)
    )
    heard = await put(pair[0], files[0])
    [result] = heard.of("result")
    assert (result["stored_on"], result["found_on"], result["closest"]) == (1, 0, 1)
    [note] = [event for event in heard.events if event["event"] == "note"]
    assert "do not have them" in note["text"]


async def test_alone_nothing_is_read_back(tmp_path: Path, files: list[Path]) -> None:
    async with cores_of(tmp_path / "alone", "ada") as [ada]:
        [result] = (await put(ada, files[0])).of("result")
        assert (result["stored_on"], result["found_on"], result["closest"]) == (0, None, None)
