"""Which node of a broker is talked to.

Owns the choice among the addresses of one URL: the node that answered last, then the others in
their order. Must not know what a connection is used for.
"""

from queueing.errors import Unavailable
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_url import AmqpUrl


class BrokerNodes:
    """The nodes of one broker; a single one, too."""

    def __init__(self, url: AmqpUrl, config: RabbitConfig) -> None:
        """Take the addresses; connects when asked to."""
        self._nodes = url.nodes
        self._config = config
        self._answered = self._nodes[0]

    async def open(self) -> BrokerLink:
        """Connect to the first node that lets us; Unavailable when none does, NotPermitted.

        Only what is Unavailable makes the next one be asked: accounts are those of all nodes.
        """
        others = [node for node in self._nodes if node is not self._answered]
        failure: Unavailable | None = None
        for node in (self._answered, *others):
            try:
                link = await BrokerLink.open(node, self._config)
            except Unavailable as error:
                failure = failure or error
            else:
                self._answered = node
                return link
        assert failure is not None, "a URL names a node"
        raise failure
