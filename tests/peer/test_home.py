import os
import subprocess
import sys
from pathlib import Path

import pytest

from peer import home as home_module
from peer.failures import AlreadyRunning, ExitCode, HomeUnusable
from peer.home import Home


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_folders_are_closed_to_others(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / "home")
    home.ensure()
    folders = [home.path, home.spool, home.inbox, home.socket_path.parent]
    assert [mode(folder) for folder in folders] == [0o700] * 4


def test_second_lock_names_the_process_that_has_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.lock():
        with pytest.raises(AlreadyRunning, match=str(os.getpid())) as caught:
            home.lock()
        assert caught.value.exit_code is ExitCode.USAGE
        assert home.running_pid() == os.getpid()
    assert home.running_pid() is None
    home.lock().release()


def test_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    home = Home(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from peer.home import Home\n"
        "lock = Home(Path(sys.argv[1])).lock(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert home.lock_path.exists()
    home.lock().release()


def test_network_is_remembered_whole_and_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.read_network() is None
    home.write_network(b"first")
    home.write_network(b"second")
    assert home.read_network() == b"second"
    assert mode(home.network_path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.json"]


def test_long_home_gets_a_short_private_socket_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    if len(str(runtime)) > 60:
        monkeypatch.setattr(home_module, "_runtime_folder", lambda: runtime / "shoal")
    home = Home(tmp_path / ("x" * 120))
    home.ensure()
    assert home.socket_path.parent == runtime / "shoal"
    assert mode(runtime / "shoal") == 0o700
    assert home.socket_path != Home(tmp_path / ("y" * 120)).socket_path


def test_runtime_folder_open_to_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "shoal"
    runtime.mkdir()
    runtime.chmod(0o777)
    monkeypatch.setattr(home_module, "_runtime_folder", lambda: runtime)
    with pytest.raises(HomeUnusable, match="open to others"):
        Home(tmp_path / ("x" * 120)).ensure()


def test_runtime_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime = tmp_path / "shoal"
    runtime.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(home_module, "_runtime_folder", lambda: runtime)
    with pytest.raises(HomeUnusable):
        Home(tmp_path / ("x" * 120)).ensure()


def test_home_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(HomeUnusable) as caught:
        Home(path).ensure()
    assert str(path) in str(caught.value)
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_home_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HomeUnusable, match="Permission denied"):
        Home(tmp_path / "home").ensure()


def test_relative_home_does_not_follow_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(Path("here"))
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "here"


def test_leftovers_of_killed_gets_are_swept_and_fresh_ones_kept(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.ensure()
    old, fresh = home.path / "run" / "get-old", home.path / "run" / "get-fresh"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))
    with home.lock():
        assert not old.exists()
        assert fresh.exists()
