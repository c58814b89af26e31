"""What a measurement means: the rules of `doctor`, one function a check.

Owns when something is fine, worth a warning or a problem, and the remedy for each. Pure: it is
given what was measured, and holds no socket, file or clock. Must not know how it was measured.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Final

from dht.clock import AGREEING_MIN, OFFSET_MIN_MS
from dht.hints import Scope, scope_of
from identity.address import Address
from identity.keys import show_peer_id
from peer.units import show_size
from peer.views import CheckState, CheckView

OPEN_TO_OTHERS: Final = 0o077
SPACE_WARNING_FACTOR: Final = 4
"""Less than so many times the least free space is worth a warning."""
CLOCK_WARNING_MS: Final = 60_000
LAG_WARNING_MS: Final = 500.0
DROPS_WARNING_MIN: Final = 20
"""A few are nothing: a scanner, a peer with an old invite that gave up."""
_FOREIGN_DROPS: Final = ("sealed", "hello-signature", "answer-signature")
_FULL_DROPS: Final = {"ack-full": "others have no room for", "store-full": "there is no room for"}


class Tls(enum.Enum):
    """What a bare TLS handshake says of an address."""

    OURS = enum.auto()
    FOREIGN = enum.auto()
    """It shows the certificate of another network."""
    ABSENT = enum.auto()
    """Its machine refuses the connection: nobody listens there."""
    SILENT = enum.auto()
    """No answer; it may be slow, or TCP does not get through."""


@dataclasses.dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that only we may read; None: there is none."""

    path: str
    mode: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """What is free where a folder lies; None: it cannot be told."""

    name: str
    free_bytes: int | None


class PortState(enum.Enum):
    """What came of an attempt to listen."""

    FREE = enum.auto()
    TAKEN = enum.auto()
    REFUSED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to listen with one protocol; `text` is the system's reason against it."""

    protocol: str
    state: PortState
    text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeFound:
    """What was found at one address of a bootstrap node."""

    node: Address
    address: Address | None
    """The numeric one that was asked; None: the name cannot be looked up."""
    wanted_id: bytes | None = None
    udp_id: bytes | None = None
    udp_ms: float | None = None
    tls: Tls = Tls.SILENT
    tls_id: bytes | None = None
    is_own: bool = False


def judge_home(
    path: str, *, exists: bool, writable: bool, files: Sequence[SecretFile]
) -> CheckView:
    """Say whether the home can be used and keeps its secrets."""
    if not exists:
        return skipped("home", f"{path} does not exist yet", "`shoal join` makes it")
    if not writable:
        return problem("home", f"{path} cannot be written", f"chmod u+rwx {path}, or use --home")
    opened = [file.path for file in files if file.mode and file.mode & OPEN_TO_OTHERS]
    if opened:
        listed = " ".join(opened)
        return problem("home", f"others can read {listed}", f"chmod 600 {listed}")
    count = sum(file.mode is not None for file in files)
    return ok("home", f"{path}, {count} secret files that nobody else can read")


def judge_disk(spaces: Sequence[Space], *, free_bytes_min: int) -> CheckView:
    """Say whether there is room where the home, the inbox and the spool lie."""
    known = [(each.free_bytes, each.name) for each in spaces if each.free_bytes is not None]
    if not known:
        return skipped("disk", "the free space cannot be told")
    free_bytes, name = min(known)
    seen = f"{show_size(free_bytes)} free for the {name}"
    remedy = f"make room; disk.free_bytes_min in config.toml is {show_size(free_bytes_min)}"
    if free_bytes < free_bytes_min:
        return problem("disk", seen, remedy)
    if free_bytes < free_bytes_min * SPACE_WARNING_FACTOR:
        return warning("disk", seen, remedy)
    return ok("disk", seen)


def judge_free_port(listen: Address, attempts: Sequence[Attempt], *, was_asked: bool) -> CheckView:
    """Say whether a peer could listen there; where the default is taken, `join` takes the next."""
    refused = [each for each in attempts if each.state is PortState.REFUSED]
    taken = [each.protocol for each in attempts if each.state is PortState.TAKEN]
    if refused:
        remedy = "choose an address of this machine, and a port above 1023, with --listen"
        return problem("ports", f"{listen}: {refused[0].text}", remedy)
    if not taken:
        return ok("ports", f"UDP and TCP of {listen} are free")
    seen = f"{' and '.join(taken)} of {listen} taken by another process"
    if was_asked:
        return problem("ports", seen, "end that process, or choose another port with --listen")
    remedy = "nothing to do if a peer with another home runs there: `join` takes the next free port"
    return warning("ports", seen, remedy)


def judge_own_port(address: str, *, tls: Tls, text: str = "") -> CheckView:
    """Say whether the running peer's own port answers on this machine."""
    if tls is Tls.OURS:
        return ok("ports", f"UDP and TCP of {address} are this peer's")
    remedy = (
        "a firewall on this machine may drop its own traffic; else `shoal leave` and join again"
    )
    return problem("ports", f"TCP of {address} does not answer this machine: {text}", remedy)


def judge_node(found: NodeFound, *, others_answer: bool) -> CheckView:
    """Say what one address of a bootstrap node is good for.

    One that is down is no problem while another answers; a foreign key always is.
    """
    check, port = f"bootstrap {found.node}", found.node.port
    weaker = warning if others_answer else problem
    if found.address is None:
        remedy = "check the name, and the DNS here"
        return weaker(check, "its name cannot be looked up", remedy)
    if found.is_own:
        return ok(check, "this peer itself")
    at = "" if found.address == found.node else f" at {found.address}"
    if found.tls is Tls.FOREIGN:
        remedy = "ask a member for a fresh invite (`shoal invite`), or check the network file"
        return problem(check, f"answers{at} with the key of another network", remedy)
    met = found.udp_id or found.tls_id
    if met is None:
        nobody = "nobody listens there" if found.tls is Tls.ABSENT else "no answer, UDP nor TCP"
        remedy = "check that it runs and that its address is right, or take it out of the file"
        return weaker(check, f"{nobody}{at}", remedy)
    who = show_peer_id(met)
    if found.wanted_id not in (None, met):
        remedy = "if that peer is the right one, put its id into the network file"
        return problem(check, f"{who} answers{at}, another than the network file names", remedy)
    if found.udp_id is None:
        return problem(
            check, f"{who} answers over TCP, but not over UDP{at}", f"let UDP port {port} through"
        )
    if found.tls_id not in (None, met):
        remedy = "two peers share that address: see which one listens on UDP, and which on TCP"
        return warning(check, f"{who} answers over UDP, another peer over TCP{at}", remedy)
    if found.tls is not Tls.OURS:
        return warning(
            check, f"{who} answers over UDP, but not over TCP{at}", f"let TCP port {port} through"
        )
    took = "" if found.udp_ms is None else f" in {found.udp_ms:.1f} ms"
    return ok(check, f"{who} answers over UDP{took} and TCP{at}")


def judge_clock(offsets_ms: Sequence[int]) -> CheckView:
    """Compare this machine's clock with others': theirs minus ours, one sample a peer."""
    if not offsets_ms:
        return skipped("clock", "no peer to compare with")
    middle_ms, peers = median_low(offsets_ms), _count(len(offsets_ms), "peer")
    if abs(middle_ms) < CLOCK_WARNING_MS:
        return ok("clock", f"within {abs(middle_ms) // 1000 + 1} s of {peers}")
    direction = "behind" if middle_ms > 0 else "ahead of"
    seen = f"{round(abs(middle_ms) / 1000)} s {direction} {peers}"
    if abs(middle_ms) >= OFFSET_MIN_MS and len(offsets_ms) >= AGREEING_MIN:
        return problem("clock", seen, "set this machine's clock, best by NTP")
    return warning("clock", seen, "see which clock is wrong, this one or theirs, and set it")


def judge_contacts(active: int, known: int) -> CheckView:
    """Say whether this peer has company."""
    lonely = "see the bootstrap nodes above, and check this machine's connection"
    if active:
        return ok("contacts", f"{active} of {_count(known, 'known peer')} active")
    if known:
        return warning("contacts", f"none of {_count(known, 'known peer')} is active", lonely)
    remedy = "`shoal invite` prints what another person joins with"
    return warning("contacts", "this peer is alone", remedy)


def judge_reachability(
    reachability: str, advertised: Address, observed: Address | None
) -> CheckView:
    """Say whether others reach this peer; `reachability` is `yes`, `no` or `unknown`."""
    check, port = "reachability", advertised.port
    if reachability == "yes":
        return ok(check, f"others reach {advertised}")
    if reachability == "no":
        remedy = f"let UDP and TCP port {port} through (router, firewall), or see --advertise"
        seen = f"others do not reach {advertised}: this peer finds and fetches, but offers nothing"
        return warning(check, seen, remedy)
    if observed is not None and _is_elsewhere(observed, advertised):
        remedy = (
            f"`shoal join --advertise {observed.host}` where that port is forwarded to this peer"
        )
        return warning(check, f"others see {observed}, but are told {advertised}", remedy)
    return skipped(check, f"not yet known whether others reach {advertised}")


def judge_lag(lag_ms_max: float) -> CheckView:
    """Say whether the peer's event loop keeps up."""
    seen = f"late by {lag_ms_max:.0f} ms at most in the last minute"
    if lag_ms_max >= LAG_WARNING_MS:
        remedy = "this machine is busy: others may take this peer for silent"
        return warning("event loop", seen, remedy)
    return ok("event loop", seen)


def judge_drops(drops: Mapping[str, int], received: int) -> CheckView:
    """Pick those drops that tell of something which somebody should mend."""
    foreign = sum(drops.get(name, 0) for name in _FOREIGN_DROPS)
    if foreign >= DROPS_WARNING_MIN:
        seen = f"{foreign} datagrams under a wrong key, of {received}"
        remedy = "somebody has an old invite or another network's: `shoal invite` makes a fresh one"
        return warning("drops", seen, remedy)
    for name, text in _FULL_DROPS.items():
        if drops.get(name, 0) >= DROPS_WARNING_MIN:
            remedy = "many offer the same, or somebody floods: `shoal status` counts by reason"
            return warning("drops", f"{text} {drops[name]} records", remedy)
    return ok("drops", f"nothing that matters in {received} datagrams")


def _is_elsewhere(observed: Address, advertised: Address) -> bool:
    """Only public addresses count: on one machine or network several are right."""
    return scope_of(observed.host) is Scope.PUBLIC and observed.host != advertised.host


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ok(check: str, seen: str) -> CheckView:
    """Say that all is as it should be."""
    return CheckView(check, CheckState.OK, seen)


def skipped(check: str, seen: str, remedy: str = "") -> CheckView:
    """Say that a check could not be made."""
    return CheckView(check, CheckState.SKIPPED, seen, remedy)


def warning(check: str, seen: str, remedy: str) -> CheckView:
    """Say that something is worth a look."""
    return CheckView(check, CheckState.WARNING, seen, remedy)


def problem(check: str, seen: str, remedy: str) -> CheckView:
    """Say that something does not work."""
    return CheckView(check, CheckState.PROBLEM, seen, remedy)
