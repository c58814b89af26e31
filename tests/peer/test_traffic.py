from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from peer import traffic as traffic_module
from peer.catalog import Share
from peer.core import Core
from peer.traffic import UPLOAD_SHOWN_S, Traffic
from peer.views import Direction
from tests.peer.cores import cores_of
from transfer.download import Progress
from transfer.manifest import show_content_id

CONTENT = b"c" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(traffic_module, "time", clock)
    return clock


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    async with cores_of(tmp_path, "ada") as cores:
        yield cores[0]


def traffic_of(core: Core, *downloads: SimpleNamespace) -> Traffic:
    running = {each.content_id: each for each in downloads}
    return Traffic(core, SimpleNamespace(running=running))  # type: ignore[arg-type]


async def test_upload_is_shown_with_its_name_rate_and_peers(core: Core, clock: Clock) -> None:
    core.catalog.add_share(Share("a.txt", Path("/a.txt"), CONTENT, 5_000, 1, 1, b""))
    traffic = traffic_of(core)
    for peer in (b"1", b"2", b"1", b"2"):
        traffic.uploaded(peer, CONTENT, 1_000)
        clock.now += 0.5
    (view,) = traffic.running()
    assert (view.name, view.direction) == ("a.txt", Direction.UPLOAD)
    assert (view.done_bytes, view.size_bytes, view.peers) == (4_000, 5_000, 2)
    assert view.rate_bytes_per_s > 0


async def test_upload_that_went_silent_is_shown_no_longer_and_begins_anew(
    core: Core, clock: Clock
) -> None:
    traffic = traffic_of(core)
    traffic.uploaded(b"1", CONTENT, 1_000)
    clock.now += UPLOAD_SHOWN_S + 0.1
    assert traffic.running() == []
    traffic.uploaded(b"2", CONTENT, 10)
    (view,) = traffic.running()
    assert (view.done_bytes, view.peers) == (10, 1)
    assert show_content_id(CONTENT).startswith(view.name)


async def test_peers_of_a_busy_upload_are_those_of_the_last_moments(
    core: Core, clock: Clock
) -> None:
    traffic = traffic_of(core)
    for number in range(1_000):
        traffic.uploaded(b"%d" % number, CONTENT, 1)
        clock.now += 1.0
    (view,) = traffic.running()
    assert view.peers <= UPLOAD_SHOWN_S + 1


async def test_uploads_are_bounded(
    core: Core, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "UPLOADS_MAX", 4)
    traffic = traffic_of(core)
    for number in range(20):
        traffic.uploaded(b"1", bytes([number]) * 32, 1)
    assert len(traffic.running()) == 4


async def test_rate_is_that_of_the_last_window(core: Core, clock: Clock) -> None:
    traffic = traffic_of(core)
    for size_bytes in (1_000, 100):
        for _ in range(50):
            traffic.uploaded(b"1", CONTENT, size_bytes)
            clock.now += 0.1
    (view,) = traffic.running()
    assert view.rate_bytes_per_s == pytest.approx(1_000, rel=0.2)


async def test_download_is_shown_with_the_rate_of_what_is_fetched_now(
    core: Core, clock: Clock
) -> None:
    download = SimpleNamespace(
        content_id=CONTENT,
        target=Path("/x/b.txt"),
        progress=Progress(40, 100, 10, {b"1": 5, b"2": 5}),
    )
    traffic = traffic_of(core, download)
    (view,) = traffic.running()
    assert (view.name, view.direction, view.peers) == ("b.txt", Direction.DOWNLOAD, 2)
    download.progress = Progress(90, 100, 60, {b"1": 30, b"2": 30})
    clock.now += 1.0
    (view,) = traffic.running()
    assert view.done_bytes == 90
    assert view.rate_bytes_per_s == pytest.approx(50)
