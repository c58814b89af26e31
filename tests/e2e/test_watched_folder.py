"""`--share DIR`: files of a folder come and go for others while it runs, and after."""

from pathlib import Path

from tests.support.processes import PeerProcess, joined, peers_in
from tests.support.waiting import until


def found_by(peer: PeerProcess, word: str) -> list[str]:
    return sorted(each["content_id"] for each in peer.json("search", word))


def test_watched_folder_is_what_others_find_also_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "music"
    (folder / "live").mkdir(parents=True)
    (folder / "studio.txt").write_text("studio")
    (folder / ".hidden.txt").write_text("hidden")
    with joined(tmp_path, "bob") as [bob], peers_in(tmp_path, "ada") as [ada]:
        network = tmp_path / "network.json"
        ada.join("--share", str(folder), network=network)
        ada.poll("status", until=lambda items: items[0]["watched_files"] == 1)
        (folder / "live/concert.txt").write_text("concert")
        until(lambda: len(found_by(bob, "concert")) == 1)
        [before] = found_by(bob, "concert")
        (folder / "live/concert.txt").write_text("another concert")
        until(lambda: len(found_by(bob, "concert")) == 1 and found_by(bob, "concert") != [before])
        got = bob.json("get", "concert.txt", "--no-share")
        assert Path(got[0]["path"]).read_text() == "another concert"
        assert found_by(bob, "hidden") == []
        ada.kill()
        (folder / "studio.txt").unlink()
        (folder / "new.txt").write_text("new")
        ada.join("--share", str(folder), network=network)
        until(lambda: len(found_by(bob, "new")) == 1 and not found_by(bob, "studio"))
        assert len(found_by(bob, "concert")) == 1
        [status] = ada.json("status")
        assert (status["shares"], status["watched_files"], status["watched_waiting"]) == (2, 2, 0)
        assert "no longer shared" not in ada.log
