"""The peer's home: the folder of its key, settings, database, spool and inbox.

Owns where each file lies, who may read it, the lock that lets one peer run in a home, the network
that the home remembers, and a socket path short enough for the kernel. Must not know what is in
the files. Standard library (and platformdirs for the default) only: every command needs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

from peer.failures import AlreadyRunning, ExitCode, Failure, HomeUnusable

# sun_path is 108 bytes on Linux and 104 on macOS, with the closing NUL.
_SOCKET_PATH_BYTES_MAX = 100
_NETWORK_FILE_BYTES_MAX = 256 * 1024
_LOCK_ATTEMPTS_MAX = 5
_LOCK_PAUSE_S = 0.02
_LEAVE_TIMEOUT_S = 12.0
_LEFTOVER_S = 24 * 3600
STDOUT_PREFIX = "get-"
"""Files in `run` that a `get -o -` streams from."""
_SUBFOLDERS = ("run", "spool", "inbox", "piped")


class Home:
    """Where one peer keeps everything; building one touches nothing on disk."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps symlinks

    @classmethod
    def default(cls) -> Home:
        """The platform's folder for a person's application data."""
        import platformdirs

        return cls(Path(platformdirs.user_data_dir("shoal", appauthor=False)))

    @property
    def key_path(self) -> Path:
        return self.path / "identity.key"

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def db_path(self) -> Path:
        return self.path / "shoal.db"

    @property
    def network_path(self) -> Path:
        """The network that this home remembers."""
        return self.path / "network.json"

    @property
    def lock_path(self) -> Path:
        return self.path / "run" / "lock"

    @property
    def log_path(self) -> Path:
        """Where a detached peer writes what it would say on stderr."""
        return self.path / "peer.log"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def piped(self) -> Path:
        """Files that came on stdin (`put -`) and are shared from here."""
        return self.path / "piped"

    @property
    def socket_path(self) -> Path:
        """The control socket: in the home, or in a short runtime folder for a long home."""
        path = self.path / "run" / "control.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES_MAX:
            return path
        import hashlib

        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        return _runtime_folder() / f"{name}.sock"

    def ensure(self) -> None:
        """Make the folders, readable by us only; HomeUnusable when that cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(self.path.iterdir()):
                self.path.chmod(0o700)
            for name in _SUBFOLDERS:
                folder = self.path / name
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(self.path))
        except FileExistsError as error:
            raise HomeUnusable(f"the home {error.filename} is not a folder") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise HomeUnusable(f"the home {self.path} cannot be used: {reason}") from error
        runtime = self.socket_path.parent
        if runtime.parent != self.path:
            _ensure_private_folder(runtime)

    def lock(self) -> HomeLock:
        """Take the home for this process; AlreadyRunning names whoever has it."""
        self.ensure()
        lock = HomeLock(self.lock_path)
        self._sweep()
        return lock

    def _sweep(self) -> None:
        """Delete what `get -o -` left behind when it was killed; what is in use is younger."""
        for path in (self.path / "run").glob(f"{STDOUT_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()

    def running_pid(self) -> int | None:
        """The process that has this home (0 when it cannot be told), or None."""
        try:
            with self.lock_path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _pid_in(file.read(32)) or 0
        except OSError:
            return None
        return None

    def wait_until_free(self, timeout_s: float = _LEAVE_TIMEOUT_S) -> None:
        """Wait until no process has this home; a Failure when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.running_pid() is not None:
            if time.monotonic() > deadline:
                raise Failure("the peer is still leaving", exit_code=ExitCode.TIMED_OUT)
            time.sleep(_LOCK_PAUSE_S)

    def read_network(self) -> bytes | None:
        """The remembered network file, or None when there is none yet."""
        try:
            with self.network_path.open("rb") as file:
                return file.read(_NETWORK_FILE_BYTES_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            raise HomeUnusable(f"{self.network_path} cannot be read: {reason}") from error

    def write_network(self, data: bytes) -> None:
        """Remember a network file; it may hold the network's key, so 0600."""
        from identity.files import replace_private

        replace_private(self.network_path, data)


class HomeLock:
    """The exclusive right to run in a home, until released or until the process ends."""

    def __init__(self, path: Path) -> None:
        # Not inherited by children; opened without truncation, since another may hold it.
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _take(self._descriptor):
            pid = _pid_in(os.pread(self._descriptor, 32, 0))
            os.close(self._descriptor)
            self._descriptor = None
            raise AlreadyRunning(pid)
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            self.release()
            error.filename = str(path)  # the system does not name what is open
            raise

    def release(self) -> None:
        """Give the home back; safe to call twice."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> HomeLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _take(descriptor: int) -> bool:
    # `running_pid` holds the lock for an instant: one refusal is not yet another peer.
    for _ in range(_LOCK_ATTEMPTS_MAX):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
    return False


def _runtime_folder() -> Path:
    """A short folder that is ours; XDG_RUNTIME_DIR is the login session's, 0700 by its rules."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and len(os.fsencode(base)) <= _SOCKET_PATH_BYTES_MAX - 40:
        return Path(base) / "shoal"
    return Path("/tmp") / f"shoal-{os.getuid()}"  # noqa: S108 - ownership is checked


def _ensure_private_folder(folder: Path) -> None:
    """Make a folder, or accept one only if it is a real one, ours and closed to others.

    In a shared /tmp another user may have made it first, to read our commands.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise HomeUnusable(f"the runtime folder {folder} cannot be used: {reason}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HomeUnusable(
            f"the runtime folder {folder} belongs to somebody else or is open to others",
            hint="use a --home with a shorter path",
        )


def _pid_in(data: bytes) -> int | None:
    text = data.strip()
    return int(text) if text.isdigit() else None
