"""What this node says of itself in hellos. Owns it; must not know who hears it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dht.hello import ADVERTISED_MAX, Hello, HelloAnswer, make_answer, make_hello
from dht.hints import Scope, scope_of
from identity.address import Address
from identity.keys import Identity
from identity.network import Network


@dataclass(slots=True)
class SelfView:
    """This node's identity, network, nickname and advertised addresses."""

    identity: Identity
    network: Network
    nickname: str
    client: bool
    entropy: Callable[[int], bytes]
    advertised: tuple[Address, ...] = field(default=())
    leaving: bool = False
    """We have said farewell: requests are no longer answered."""

    @property
    def peer_id(self) -> bytes:
        return self.identity.peer_id

    def advertise(self, addresses: Sequence[Address]) -> None:
        """Say from now on that others reach us there; names are left out, hellos hold IPs."""
        usable = [each for each in addresses if scope_of(each.host) is not Scope.UNUSABLE]
        self.advertised = tuple(usable[:ADVERTISED_MAX])

    def hello(self, dialled: Address, target_id: bytes) -> Hello:
        """Make a fresh hello for one address."""
        return make_hello(
            self.identity,
            self.network.network_id,
            nonce=self.entropy(16),
            dialled=dialled,
            target_id=target_id,
            advertised=self.advertised,
            nickname=self.nickname,
            client=self.client,
        )

    def answer(self, hello: Hello, observed: Address) -> HelloAnswer:
        """Make the answer to a hello that was checked."""
        return make_answer(
            self.identity,
            self.network.network_id,
            hello,
            nonce=self.entropy(16),
            observed=observed,
            advertised=self.advertised,
            nickname=self.nickname,
            client=self.client,
        )
