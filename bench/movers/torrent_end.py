"""One end of a BitTorrent transfer by libtorrent: `python -m bench.movers.torrent_end ...`.

`seed FOLDER NAME TORRENT plain|encrypted` writes the torrent of what is shared and prints its port;
`take FOLDER TORRENT PORT plain|encrypted` prints `ready`, waits for a line, downloads, prints
`done`. Both end with their input.
"""

import sys
from pathlib import Path
from typing import Any

import libtorrent as lt

ALERT_WAIT_MS = 100


def session(kind: str) -> Any:
    """A session that speaks to loopback only, and does not hold back."""
    policy = lt.enc_policy.forced if kind == "encrypted" else lt.enc_policy.disabled
    settings: Any = {
        **lt.high_performance_seed(),
        "listen_interfaces": "127.0.0.1:0",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "allow_multiple_connections_per_ip": True,
        "out_enc_policy": int(policy),
        "in_enc_policy": int(policy),
        "allowed_enc_level": int(lt.enc_level.rc4),
        "prefer_rc4": True,
        "alert_mask": lt.alert.category_t.status_notification
        | lt.alert.category_t.error_notification,
    }
    return lt.session(settings)


def seed(folder: str, name: str, torrent: str, kind: str) -> None:
    storage = lt.file_storage()
    lt.add_files(storage, str(Path(folder) / name))
    maker = lt.create_torrent(storage, 0, lt.create_torrent.v1_only)
    lt.set_piece_hashes(maker, folder)
    Path(torrent).write_bytes(lt.bencode(maker.generate()))
    running = session(kind)
    handle = _add(running, torrent, folder, lt.torrent_flags.seed_mode)
    _wait_for(running, handle, lambda status: status.is_seeding)
    print(running.listen_port(), flush=True)
    sys.stdin.read()


def take(folder: str, torrent: str, port: int, kind: str) -> None:
    running = session(kind)
    print("ready", flush=True)
    sys.stdin.readline()
    handle = _add(running, torrent, folder, 0)
    handle.connect_peer(("127.0.0.1", port))
    _wait_for(running, handle, lambda status: status.is_finished)
    print("done", flush=True)
    # What is still in its queue belongs on disk before the result is compared.
    handle.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in _alerts(running)):
        pass
    print("flushed", flush=True)
    sys.stdin.read()


def _add(running: Any, torrent: str, folder: str, flags: int) -> Any:
    parameters = lt.load_torrent_file(torrent)
    parameters.save_path = folder
    held = lt.torrent_flags.auto_managed | lt.torrent_flags.paused
    parameters.flags = (parameters.flags & ~held) | flags
    return running.add_torrent(parameters)


def _wait_for(running: Any, handle: Any, holds: Any) -> None:
    while not holds(handle.status()):
        _alerts(running)


def _alerts(running: Any) -> list[Any]:
    running.wait_for_alert(ALERT_WAIT_MS)
    alerts = running.pop_alerts()
    for alert in alerts:
        if isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert)):
            raise SystemExit(alert.message())
    return list(alerts)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["seed", folder, name, torrent, kind]:
            seed(folder, name, torrent, kind)
        case ["take", folder, torrent, port, kind]:
            take(folder, torrent, int(port), kind)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
