"""Whom hints may have us dial: others' words must not turn us into a flood against a stranger.

Owns the memory of addresses that never answered and the rates of first hellos. Pure: it is given
the time. Must not know sockets or messages. An address is a stranger until it has proved itself to
us; contacts in replies, addresses in records and the source of a stock call are hints. What a
person configured or we knew ourselves (bootstrap nodes, former contacts) is no hint.
"""

from collections import OrderedDict
from dataclasses import dataclass

from dht.hints import Scope, scope_of
from dht.limits import Allowance, DialConfig, RateLimit
from identity.address import Address


@dataclass(frozen=True, slots=True)
class _Silence:
    dials: int
    until_s: float


class DialLimits:
    """Decide whether a hint is dialled.

    Inputs: `allows` (it takes one dial), then `answered` or `silent` about the same address.
    Output: True or False. Invariants: what answers gives its dial back; at most silent_max
    addresses and the rate limits' sources are remembered.
    """

    def __init__(self, config: DialConfig | None = None) -> None:
        self._config = config or DialConfig()
        self._silences: OrderedDict[Address, _Silence] = OrderedDict()
        self._public = RateLimit(self._config.public_host)
        self._private = RateLimit(self._config.private_host)
        self._strangers = Allowance(self._config.strangers, 0.0)

    def __len__(self) -> int:
        return len(self._silences) + len(self._public) + len(self._private)

    def allows(self, address: Address, *, now: float) -> bool:
        """Tell whether to dial a stranger now, and count that dial."""
        silence = self._silences.get(address)
        if silence is not None and now < silence.until_s:
            return False
        host = self._host_limit(address)
        if host is not None and not host.allows(address.host, now=now):
            return False
        return self._strangers.takes(self._config.strangers, 1.0, now)

    def answered(self, address: Address) -> None:
        """Note that a dialled stranger proved itself."""
        self._silences.pop(address, None)
        host = self._host_limit(address)
        if host is not None:
            host.give_back(address.host)
        self._strangers.give_back(self._config.strangers)

    def silent(self, address: Address, *, now: float) -> None:
        """Note that a dialled stranger did not answer in time."""
        before = self._silences.pop(address, None)
        dials = 1 if before is None else before.dials + 1
        pause_s = self._config.again_min_s * 2 ** min(dials - 1, 32)
        until_s = now + min(pause_s, self._config.again_max_s)
        self._silences[address] = _Silence(dials, until_s)
        while len(self._silences) > self._config.silent_max:
            self._silences.popitem(last=False)

    def _host_limit(self, address: Address) -> RateLimit | None:
        match scope_of(address.host):
            case Scope.LOOPBACK:
                return None
            case Scope.PUBLIC:
                return self._public
            case Scope.PRIVATE | Scope.UNUSABLE:
                return self._private
