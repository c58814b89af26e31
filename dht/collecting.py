"""What a read has found so far. Owns merging and checking; must not know who was asked how.

Every record is checked by the reader too: a storer is believed nothing.
"""

from collections import Counter
from collections.abc import Callable

from dht.errors import BadRecord
from dht.heat import Heat, agreed
from dht.records import Kind, Payload, Record, check_record, decode_record
from dht.storage import entry_id_of
from dht.tracing import Held, Refused, Trace

Hit = tuple[Record, Payload]
TAKEN_SLACK = 2
"""Bytes remembered for each record that a read may take."""


class Collector:
    """Merge records from several storers.

    Inputs: `add(data)`, `heard(teller, heat)`. Outputs: `hits()`, `on_hit` for each new or newer
    live record, `heat(k)`. Invariants: one record an identity, that with the highest sequence; at
    most records_max identities; withdrawn ones are kept only to hide what they withdraw.
    """

    def __init__(
        self,
        network_id: bytes,
        key: bytes,
        kinds: frozenset[Kind],
        *,
        records_max: int,
        drops: Counter[str],
        on_hit: Callable[[Hit], None],
        trace: Trace | None = None,
    ) -> None:
        self._network_id = network_id
        self._key = key
        self._kinds = kinds
        self._records_max = records_max
        self._drops = drops
        self._on_hit = on_hit
        self.trace = trace
        self._found: dict[bytes, Hit] = {}
        self._heats: dict[bytes, Heat] = {}
        self._taken: dict[bytes, Record] = {}
        """The same records by their bytes: most storers tell the same, which is checked once."""

    @property
    def is_full(self) -> bool:
        """Whether no further identity is taken."""
        return len(self._found) >= self._records_max

    @property
    def has_hits(self) -> bool:
        """Whether any live record was found."""
        return any(not record.withdrawn for record, _ in self._found.values())

    def add(self, data: bytes, *, now_ms: int, teller: bytes | None = None) -> bool:
        """Take one record from a storer, None being ourselves; True when it is good and news."""
        if (taken := self._taken.get(data)) is not None:
            return self._take_again(taken, teller)
        try:
            record = decode_record(data)
            entry_id = entry_id_of(record)
            held = self._found.get(entry_id)
            if held is not None and held[0].sequence >= record.sequence:
                return self._take_again(record, teller)
            if record.key != self._key or record.kind not in self._kinds:
                return self._refuse("record-unasked", teller)
            if held is None and self.is_full:
                return self._refuse("record-surplus", teller)
            payload = check_record(record, self._network_id, now_ms=now_ms)
        except BadRecord as error:
            return self._refuse(f"record-{error.reason}", teller)
        self._found[entry_id] = (record, payload)
        if len(self._taken) >= TAKEN_SLACK * self._records_max:
            self._taken.clear()  # a publisher floods us with ever newer ones: check them all
        self._taken[data] = record
        if self.trace is not None:
            self.trace(Held(teller, record))
        if not record.withdrawn:
            self._on_hit((record, payload))
        return True

    def _take_again(self, record: Record, teller: bytes | None) -> bool:
        """Note who else has what we have; nothing but the same record is believed unchecked."""
        if self.trace is not None:
            if record == self._found[entry_id_of(record)][0]:
                self.trace(Held(teller, record))
            else:
                self.trace(Refused(teller, "record-outdated"))
        return False

    def _refuse(self, reason: str, teller: bytes | None) -> bool:
        self._drops[reason] += 1
        if self.trace is not None:
            self.trace(Refused(teller, reason))
        return False

    def heard(self, teller: bytes, heat: Heat) -> None:
        """Note how hot the key is with one who was asked, or with ourselves."""
        self._heats[teller] = heat

    def heat(self, k: int) -> Heat:
        """Conclude how hot the key is from the k closest that were heard."""
        target = int.from_bytes(self._key)
        closest = sorted(self._heats, key=lambda teller: int.from_bytes(teller) ^ target)[:k]
        return agreed([self._heats[teller] for teller in closest])

    def hits(self) -> list[Hit]:
        """Return all live records, newest issue first."""
        live = [hit for hit in self._found.values() if not hit[0].withdrawn]
        return sorted(live, key=lambda hit: (-hit[0].issued_ms, hit[0].public_key))
