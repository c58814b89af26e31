"""BitTorrent by libtorrent: a seed and a downloader that is told the seed's address."""

import importlib.util
import sys
import time
from pathlib import Path

from bench.movers.base import Load, Moved, NotMeasured
from bench.movers.process import TRANSFER_MAX_S, Meter, Process

END = Path(__file__).with_name("torrent_end.py")


class TorrentMover:
    """Two processes of bench.movers.torrent_end, RC4 on both sides or none."""

    def __init__(self, *, is_encrypted: bool) -> None:
        self.name = "libtorrent-encrypted" if is_encrypted else "libtorrent"
        self._kind = "encrypted" if is_encrypted else "plain"
        if importlib.util.find_spec("libtorrent") is None:
            raise NotMeasured("the package libtorrent is not installed")

    def version(self) -> str:
        import libtorrent

        return f"libtorrent {libtorrent.__version__}"

    def move(self, load: Load, folder: Path) -> Moved:
        torrent = str(folder / "load.torrent")
        result = folder / "result"
        result.mkdir()
        end = [sys.executable, str(END)]
        given = [str(load.path.parent), load.path.name, torrent, self._kind]
        with Process([*end, "seed", *given], folder) as seed:
            port = seed.hear(TRANSFER_MAX_S)
            given = [str(result), torrent, port, self._kind]
            with Process([*end, "take", *given], folder) as taker:
                taker.hear()
                sending, receiving = Meter(seed.pid), Meter(taker.pid)
                began = time.monotonic()
                taker.say("go")
                taker.hear(TRANSFER_MAX_S)
                seconds = time.monotonic() - began
                sender, receiver = sending.usage(), receiving.usage()
                taker.hear()
        return Moved(seconds, sender, receiver, result / load.path.name)
