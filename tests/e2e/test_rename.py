"""A peer that comes back under another nickname is there for everybody, newcomers too."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import peers_in, private_network, seed_of


def test_renamed_peer_is_active_for_newcomers_and_its_former_name_means_nobody(
    tmp_path: Path,
) -> None:
    network = private_network(tmp_path)
    with peers_in(tmp_path, "anna", "quinn") as [anna, quinn]:
        anna.join("--name", "anna", network=network, listen=seed_of(network))
        assert anna.terminate() == 0
        anna.join("--name", "berta", network=network, listen=seed_of(network))
        quinn.join(network=network)
        (quinn.folder / "x.txt").write_text("x")
        for _ in range(5):  # what came in late must not make it a departed one either
            assert quinn.json("put", "x.txt")[0]["stored_on"] == 1
            assert quinn.json("status")[0]["peers_active"] == 1
        assert quinn.json("put", "x.txt", "--to", "berta")[0]["state"] == "delivered"
        assert quinn.run("put", "x.txt", "--to", "anna").code == 3
