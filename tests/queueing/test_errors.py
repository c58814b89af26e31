"""Every error that the interface names is met by a test, at one backend or another."""

import re
from pathlib import Path

from queueing import errors
from queueing.errors import BadEnvelope, Blocked, Expired, MailboxFull, QueueError, Refused
from queueing.store import PendingStore
from tests.queueing.hosts import MailboxBed
from tests.queueing.test_rabbitmq import RabbitBed
from tests.queueing.test_spool import SpoolBed

IN_EVERY_CONTRACT = {Expired, BadEnvelope, MailboxFull}
ELSEWHERE = {
    Blocked: "test_rabbitmq_failures.py",  # an alarm of a broker of its own
    Refused: "test_mailbox_service.py",  # who is not accepted, and what was dropped there
}


def test_each_error_of_a_deposit_is_met_by_a_test() -> None:
    named = re.findall(r"\b[A-Z]\w+\b", PendingStore.deposit.__doc__ or "")
    interface = {getattr(errors, name) for name in named if hasattr(errors, name)}
    assert len(interface) == 8
    met = IN_EVERY_CONTRACT.union(*(bed.errors for bed in (SpoolBed, MailboxBed, RabbitBed)))
    assert interface <= met | ELSEWHERE.keys()
    for error, file in ELSEWHERE.items():
        assert issubclass(error, QueueError)
        assert f"pytest.raises({error.__name__}" in Path(__file__).with_name(file).read_text()
