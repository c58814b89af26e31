"""The systems that bench.transfer measures, each behind one call. Owns their list."""

from bench.movers.base import Mover

NAMES = (
    "shoal",
    "shoal-4",
    "libtorrent",
    "libtorrent-encrypted",
    "wormhole",
    "aria2",
    "socket",
    "iperf3",
)
"""In the order in which they are measured and shown."""


def mover_of(name: str) -> Mover:
    """Return a system by its name; imported here, so that the others need not be installed.

    Raises KeyError for an unknown name, NotMeasured where the system is not there.
    """
    match name:
        case "shoal" | "shoal-4":
            from bench.movers.shoal import ShoalMover

            return ShoalMover(holders=4 if name == "shoal-4" else 1)
        case "libtorrent" | "libtorrent-encrypted":
            from bench.movers.torrent import TorrentMover

            return TorrentMover(is_encrypted=name == "libtorrent-encrypted")
        case "wormhole":
            from bench.movers.wormhole import WormholeMover

            return WormholeMover()
        case "aria2":
            from bench.movers.aria import AriaMover

            return AriaMover()
        case "socket":
            from bench.movers.sockets import SocketMover

            return SocketMover()
        case "iperf3":
            from bench.movers.iperf import IperfMover

            return IperfMover()
        case _:
            raise KeyError(name)
