import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.config import Config, DeliveryMeans, InboxAccept, load_config, parse_config
from peer.failures import BadConfig, ExitCode

FULL = b"""
nickname = "ada"
[inbox]
accept = "contacts"
quota_bytes = "10GB"
[mailbox]
enabled = false
retention_s = "14d"
[transfer]
upload_bytes_per_s = "2MB/s"
slots = 4
[delivery]
means = ["mailbox"]
"""


def test_missing_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml") == Config()


def test_sizes_and_spans_are_read_from_text() -> None:
    config = parse_config(FULL)
    assert config.inbox.accept is InboxAccept.CONTACTS
    assert config.inbox.quota_bytes == 10**10
    assert config.mailbox.retention_s == 14 * 86400
    assert config.transfer.upload_bytes_per_s == 2_000_000
    assert config.delivery.means == (DeliveryMeans.MAILBOX,)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"[inbox]\nquotta = 1", "quotta"),
        (b"[mail]\nx = 1", "mail"),
        (b"[inbox]\naccept = 'friends'", "inbox.accept"),
        (b"[inbox]\nquota_bytes = 'much'", "inbox.quota_bytes"),
        (b"[inbox]\nquota_bytes = -1", "inbox.quota_bytes"),
        (b"[transfer]\nslots = 0", "transfer.slots"),
        (b"[delivery]\nmeans = []", "delivery.means"),
        (b"[delivery]\nmeans = ['queue', 'queue']", "twice"),
        (b"[queue]\namqp = 'http://x'", "queue.amqp"),
        (b"inbox = 3", "inbox"),
        (b"[inbox", "config.toml"),
        (b"\xff", "UTF-8"),
        (b"#" * 70_000, "larger"),
    ],
)
def test_mistake_is_named_where_it_stands(text: bytes, named: str) -> None:
    with pytest.raises(BadConfig, match=named) as caught:
        parse_config(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in str(caught.value)


def test_secret_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[queue]\namqp = "amqp://ada:hunter2@broker/"\n')
    path.chmod(0o644)
    with pytest.raises(BadConfig) as caught:
        load_config(path)
    assert "chmod 600" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    path.chmod(0o600)
    assert load_config(path).queue.amqp == "amqp://ada:hunter2@broker/"


@given(st.binary(max_size=80))
def test_any_bytes_are_a_config_or_one_clear_error(data: bytes) -> None:
    with contextlib.suppress(BadConfig):
        assert parse_config(data).transfer.slots > 0
