"""The torture of a rejoin: hundreds of deliveries wait, and a person gets files meanwhile.

Owns the peers, the times and the verdict. Real `shoal` processes: a sender and a holder, which both
keep mail, and a recipient who was away. Once it is back it gets files from the holder while its
deliveries come in, and as many again when all are there. Each delivery must lie in the inbox once,
and the files that were got meanwhile must not have taken much longer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.support import waiting
from tests.support.deliveries import digest_of, inbox_files, write_file
from tests.support.processes import PeerProcess, joined
from tests.torture.tally import Tally

PENDING = 500
GETS_MAX = 20
FILE_BYTES = 4 * 1024 * 1024
LETTER_BYTES = 2_000
LETTERS_A_PUT = 50
"""So that each command ends within its time."""
PUT_TIMEOUT_S = 180.0
END_TIMEOUT_S = 900.0
SLOWER_MAX, SLACK_S = 5.0, 1.0
"""A get beside the mail takes at most so many times as long as one alone, and so much more."""


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally for each rejoin."""
    for number in range(runs or 1):
        with tempfile.TemporaryDirectory() as folder:
            yield rejoin(Path(folder), pending=PENDING, seed=seed + number)


def rejoin(folder: Path, *, pending: int, seed: int) -> Tally:
    """Let that many deliveries wait for one recipient, and be it."""
    tally = Tally(f"a rejoin to {pending} deliveries", seed, runs=1)
    with joined(folder, "ada", "carol", "bob") as [ada, carol, bob]:
        files = [
            write_file(carol.folder, f"file-{number:02}", FILE_BYTES, seed=seed + number).name
            for number in range(2 * GETS_MAX)
        ]
        carol.json("put", *files, timeout_s=PUT_TIMEOUT_S)
        bob.terminate()
        began = time.monotonic()
        sent = _send(ada, bob.id, pending, seed)
        tally.notes.append(f"{pending} deliveries made in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        bob.join()
        meanwhile: list[_Time] = []
        for name in files[:GETS_MAX]:
            taken = _get(bob, name)
            if len(inbox_files(bob)) >= len(sent):
                break  # it was not beside the mail from its begin to its end
            meanwhile.append(taken)
        _await_all(ada, bob, sent, tally)
        tally.notes.append(f"all delivered {time.monotonic() - began:.0f} s after the rejoin began")
        alone = [_get(bob, name) for name in files[GETS_MAX : GETS_MAX + max(3, len(meanwhile))]]
    _judge(meanwhile, alone, tally)
    return tally


_Time = tuple[float, float]
"""Seconds of a whole command, and of the transfer in it."""


def _send(ada: PeerProcess, recipient: str, pending: int, seed: int) -> dict[str, str]:
    """Send to who is away; return the digests by name."""
    sent: dict[str, str] = {}
    for number in range(pending):
        path = write_file(ada.folder, f"letter-{number:03}", LETTER_BYTES, seed=~(seed + number))
        sent[path.name] = digest_of(path)
    names = list(sent)
    for first in range(0, pending, LETTERS_A_PUT):
        chosen = names[first : first + LETTERS_A_PUT]
        ada.json("put", *chosen, "--to", recipient, timeout_s=PUT_TIMEOUT_S)
    return sent


def _get(peer: PeerProcess, name: str) -> _Time:
    began = time.monotonic()
    (got,) = peer.json("get", name)
    return time.monotonic() - began, float(got["seconds"])


def _await_all(ada: PeerProcess, bob: PeerProcess, sent: dict[str, str], tally: Tally) -> None:
    def is_done() -> bool:
        if not set(sent) <= set(inbox_files(bob)):
            return False
        return {row["state"] for row in ada.json("outbox")} == {"delivered"}

    try:
        waiting.until(is_done, END_TIMEOUT_S, "the end of all deliveries")
    except AssertionError as error:
        tally.notes.append(str(error))
    # What is hidden is not there yet.
    found = [name for name in inbox_files(bob) if not name.startswith(".")]
    tally.lost += len(set(sent) - set(found))
    tally.doubled += len(set(found) - set(sent))
    inbox = bob.home / "inbox"
    for name in set(sent) & set(found):
        tally.damaged += digest_of(inbox / name) != sent[name]


def _judge(meanwhile: Sequence[_Time], alone: Sequence[_Time], tally: Tally) -> None:
    if not meanwhile:
        tally.lost += 1
        tally.notes.append("all was collected before a get had ended: nothing is shown")
        return
    beside, quiet = median(each[0] for each in meanwhile), median(each[0] for each in alone)
    tally.damaged += beside > SLOWER_MAX * quiet + SLACK_S
    moved = median(each[1] for each in meanwhile), median(each[1] for each in alone)
    tally.notes.append(
        f"{len(meanwhile)} gets of {FILE_BYTES >> 20} MiB meanwhile: {beside:.2f} s each (median),"
        f" alone {quiet:.2f} s: {beside / quiet:.1f} times as long; the transfer in it"
        f" {moved[0]:.3f} s, alone {moved[1]:.3f} s"
    )
