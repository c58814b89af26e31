"""Whether our wall clock is right, judged by the clocks of proven contacts.

Owns: one sample a contact, and the rule that three of them must agree.
Must not know: sockets, the system's clock, what is done about it.
"""

from collections import OrderedDict
from statistics import median_low

SAMPLES_MAX = 64
AGREEING_MIN = 3
AGREEMENT_MS = 2 * 60 * 1000
OFFSET_MIN_MS = 5 * 60 * 1000


class ClockWatch:
    """Find out by how much our wall clock is off.

    Inputs: `heard(peer_id, offset_ms)`. Outputs: `offset_ms`, what to add to our clock, 0 while it
    is right or nobody can tell; `doubt_ms`, what fewer contacts than could decide say alike.
    Invariants: one sample a contact, at most SAMPLES_MAX; no correction unless at least three
    contacts and more than half of all samples lie within two minutes of their median, and that
    median is five minutes or more away from us.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self.doubt_ms = 0
        self._samples: OrderedDict[bytes, int] = OrderedDict()
        self._far = 0
        """How many of them are too far off to be ignored."""

    def heard(self, peer_id: bytes, offset_ms: int) -> None:
        """Note a proven contact's wall time minus ours."""
        self._far += _is_far(offset_ms) - _is_far(self._samples.pop(peer_id, 0))
        self._samples[peer_id] = offset_ms
        while len(self._samples) > SAMPLES_MAX:
            self._far -= _is_far(self._samples.popitem(last=False)[1])
        # A middle is one of the samples: where none is far off, neither is the middle.
        self.offset_ms = self._agreed_ms() if self._far else 0
        self.doubt_ms = self._doubt_ms() if self._far else 0

    @property
    def samples_ms(self) -> tuple[int, ...]:
        """What each contact says, the latest last."""
        return tuple(self._samples.values())

    def _agreed_ms(self) -> int:
        samples = list(self._samples.values())
        if len(samples) < AGREEING_MIN:
            return 0
        middle = median_low(samples)
        agreeing = sum(abs(sample - middle) <= AGREEMENT_MS for sample in samples)
        if agreeing < AGREEING_MIN or 2 * agreeing <= len(samples):
            return 0
        return middle if _is_far(middle) else 0

    def _doubt_ms(self) -> int:
        """Too few to correct our clock by, but all contacts there are: a reason to warn."""
        samples = list(self._samples.values())
        if len(samples) >= AGREEING_MIN or not samples:
            return 0
        middle = median_low(samples)
        alike = all(abs(sample - middle) <= AGREEMENT_MS for sample in samples)
        return middle if alike and _is_far(middle) else 0


def _is_far(offset_ms: int) -> bool:
    return abs(offset_ms) >= OFFSET_MIN_MS
