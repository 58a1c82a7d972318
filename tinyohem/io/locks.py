"""One writer per folder, by a lock of the operating system.

The lock dies with its process: after a `kill -9` the lock file may stay, the lock does not.
"""

import errno
import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyohem.errors import InputError
from tinyohem.progress import SILENT, Progress

LOCK_FILE = ".writer.lock"
_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # some network file systems


@contextmanager
def sole_writer(
    folder: Path, *, patience: float = 0.0, progress: Progress = SILENT
) -> Iterator[None]:
    """Lock `folder` against other processes that call this; make it if it is missing.

    Blocks of one thread may be nested. A folder made here that stays empty is removed; with
    `patience`, also one that another process made, which has to leave it where it meets this lock.

    Args:
        patience: seconds to wait for another process before raising; `math.inf` for shared caches.

    Raises:
        InputError: another process is writing there, or `folder` is a file.
        OSError: it cannot be written into.
    """
    from filelock import FileLock

    made = _make(folder)
    path = folder.resolve() / LOCK_FILE
    # No soft lock on systems without locks: a killed process leaves it locked.
    lock = FileLock(path, is_singleton=True, fallback_to_soft=False)
    try:
        while True:
            try:
                _acquire(lock, path, folder, patience, progress)
                break
            except FileNotFoundError:  # its maker has removed the folder
                made = _make(folder)
        if lock.lock_counter == 1:
            path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)  # a waiting process notices that it is gone
        if lock.is_locked:
            lock.release()
        _remove_empty(made or ([folder] if patience else []))


def is_locked(folder: Path) -> bool:
    """Whether another process is writing into a folder now."""
    from filelock import FileLock, Timeout

    path = folder.resolve() / LOCK_FILE
    if not path.exists():
        return False
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a folder that may only be read, or one that knows no locks
        return False
    lock.release()
    return False


def _acquire(lock: Any, path: Path, folder: Path, patience: float, progress: Progress) -> None:
    from filelock import Timeout

    holder = _holder(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if patience:
                progress.note(f"{folder}: {holder} is writing here; waiting until it has ended")
            lock.acquire(timeout=-1 if math.isinf(patience) else patience)
    except Timeout:
        raise InputError(
            f"{folder}: {holder} is writing here",
            "wait until it has ended, or choose another folder",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        progress.warn(f"{folder} knows no locks: see that no other process writes there")


def _holder(path: Path) -> str:
    """Name the process that holds a lock, if it has already signed."""
    try:
        signed = json.loads(path.read_text())
        return f"another process (pid {int(signed['pid'])} on {signed['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; return the ones that were missing, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} is a file", "choose another --out") from None
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
