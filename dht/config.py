"""The settings of one DHT node. Owns defaults and limits; must not know anything else."""

from dataclasses import dataclass, field

from dht.limits import DialConfig, Limits
from dht.lookup import LookupConfig
from dht.pulse import PulseConfig
from dht.reachability import ReachConfig
from dht.routing import TableConfig


@dataclass(frozen=True, slots=True)
class DhtConfig:
    """How one node of the DHT behaves."""

    client: bool = False
    """In nobody's table and stores nothing, but reads and publishes."""
    table: TableConfig = field(default_factory=TableConfig)
    """Limits of the routing table."""
    lookup: LookupConfig = field(default_factory=LookupConfig)
    """Limits and timeouts of each lookup."""
    resend_s: float = 0.6
    """A request without an answer is sent once more after this."""
    call_timeout_s: float = 2.0
    """A request without an answer has failed after this."""
    lookups_max: int = 8
    """Lookups that one read or publish runs at once."""
    stores_max: int = 16
    """Storers that one publish sends to at once."""
    records_wanted_max: int = 300
    """Records that one read asks for, over all storers."""
    pages_max: int = 8
    """Pages that one storer is asked for over UDP in one read before it goes on over gRPC."""
    pages_alone_max: int = 100
    """The same in all where there is no gRPC."""
    bulk_records_min: int = 24
    """Batches to one storer of this size and more go over gRPC where that is wired."""
    verify_rate_hz: float = 2_000.0
    """Signatures of others' records checked, steadily; 0.2 ms of this peer's time each."""
    verify_burst_max: int = 4_000
    """Signatures of others' records checked at once."""
    sessions_max: int = 4_096
    """Peers whose address tokens are remembered."""
    greetings_max: int = 32
    """Hellos back to newcomers that may be under way at once."""
    greeting_again_s: float = 60.0
    """A newcomer that did not answer our hello is not greeted again for this long."""
    limits: Limits = field(default_factory=Limits)
    """What others may have from us, in rates."""
    dials: DialConfig = field(default_factory=DialConfig)
    """How often hints may have us dial strangers."""
    reach: ReachConfig = field(default_factory=ReachConfig)
    """How we find out whether others can reach us."""
    bootstrap_retry_min_s: float = 1.0
    """First wait before a lonely node tries its bootstrap nodes again; it doubles."""
    bootstrap_retry_max_s: float = 60.0
    """Longest wait between two such tries."""
    flush_s: float = 3.0
    """How often changed state is given to the persistence."""
    upkeep_s: float = 30.0
    """How often buckets, contacts and stored records are looked after."""
    pulse: PulseConfig = field(default_factory=PulseConfig)
    """After which time quiet contacts are pinged and stale buckets refreshed."""
    pings_max: int = 4
    """Quiet contacts pinged in one round of upkeep."""
    refreshes_max: int = 2
    """Stale buckets refreshed in one round of upkeep."""
    absent_max: int = 128
    """Silent contacts and bootstrap nodes that are asked for again."""
    absent_retry_min_s: float = 10.0
    """First wait before a silent contact is asked for again; it doubles."""
    absent_retry_max_s: float = 3600.0
    """Longest wait between two such questions."""
    seeks_max: int = 8
    """Absent ones asked for at once."""
    handoff_s: float = 1.0
    """How long newcomers are gathered before records are handed to them."""
    handoff_holders: int = 2
    """How many of the closest known holders hand a key to a newcomer."""
    remembered_max: int = 64
    """Remembered contacts that a bootstrap tries."""

    def __post_init__(self) -> None:
        assert 0 < self.resend_s < self.call_timeout_s
        assert self.lookups_max >= 1
        assert 1 <= self.pages_max <= self.pages_alone_max
        assert self.stores_max >= 1
        assert self.verify_rate_hz > 0
        assert self.verify_burst_max >= 1
        assert 0 < self.bootstrap_retry_min_s <= self.bootstrap_retry_max_s
