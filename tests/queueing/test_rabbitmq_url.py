import pytest

from queueing.rabbitmq_url import AmqpUrl, BadAmqpUrl, parse_amqp_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://host", AmqpUrl("host", 5672, False, "/")),
        ("amqps://host/", AmqpUrl("host", 5671, True, "/")),
        ("amqp://u:p%40ss@host:7/shoal", AmqpUrl("host", 7, False, "shoal", "u", "p@ss")),
        ("amqp://u@host/%2F", AmqpUrl("host", 5672, False, "/", "u", "")),
        ("amqp://[::1]:5673/a%2Fb", AmqpUrl("::1", 5673, False, "a/b")),
    ],
)
def test_amqp_urls_are_read_as_their_specification_says(text: str, expected: AmqpUrl) -> None:
    assert parse_amqp_url(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "host:5672", "http://u:secret@host", "amqp://", "amqp://u:secret@host:port/",
     "amqp://u:secret@host:99999", "amqp://u:secret@host/a/b", "amqp://u:secret@host?heartbeat=1",
     "amqp://u:secret@[::1/"],
)  # fmt: skip
def test_other_texts_are_refused_without_repeating_the_password(text: str) -> None:
    with pytest.raises(BadAmqpUrl) as caught:
        parse_amqp_url(text)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_the_password_is_in_no_text_of_the_url() -> None:
    url = parse_amqp_url("amqp://user:secret@host/vhost")
    assert "secret" not in f"{url} {url!r}"
    assert str(url) == "host:5672"
    assert str(parse_amqp_url("amqp://[::1]")) == "[::1]:5672"
