import pytest

from queueing.rabbitmq_url import NODES_MAX, AmqpUrl, BadAmqpUrl, parse_amqp_url


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
     "amqp://u:secret@[::1/", "amqp://u:secret@one,,two/", "amqp://u:secret@one:5672,two:port/",
     "amqp://u:secret@" + ",".join(f"n{n}" for n in range(NODES_MAX + 1))],
)  # fmt: skip
def test_other_texts_are_refused_without_repeating_the_password(text: str) -> None:
    with pytest.raises(BadAmqpUrl) as caught:
        parse_amqp_url(text)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_nodes_of_a_cluster_are_named_one_after_the_other() -> None:
    url = parse_amqp_url("amqps://u:p%40ss@one,two:7,[::1]:8/shoal")
    assert str(url) == "one:5671,two:7,[::1]:8"
    assert [(node.host, node.port) for node in url.nodes] == [("one", 5671), ("two", 7), ("::1", 8)]
    for node in url.nodes:
        assert (node.user, node.password, node.virtual_host, node.tls) == (
            "u",
            "p@ss",
            "shoal",
            True,
        )
        assert node.nodes == (node,)


def test_the_password_is_in_no_text_of_the_url() -> None:
    url = parse_amqp_url("amqp://user:secret@host/vhost")
    assert "secret" not in f"{url} {url!r}"
    assert str(url) == "host:5672"
    assert str(parse_amqp_url("amqp://[::1]")) == "[::1]:5672"
