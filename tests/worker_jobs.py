"""What the workers of `test_processes.py` do, and a program whose workers do it.

Files in a folder say how far a job has come, and let it go on.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from tinyohem.errors import InputError
from tinyohem.system import processes
from tinyohem.system.processes import Workers
from tinyohem.system.signals import graceful_stop, ignore_signals, interrupt_once


class OddError(Exception):
    """It cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def wait_for(path: Path) -> None:
    """Wait until another process has made a file."""
    while not path.exists():
        time.sleep(0.005)


def save(folder: Path, job: str) -> None:
    """Save once the test lets it."""
    (folder / f"{job} saves").touch()
    wait_for(folder / "may save")
    (folder / f"{job} saved").touch()


def work(job: str, folder: Path) -> int:
    """Do the job that a word names; return this worker's pid."""
    begun = folder / f"{job} begun"
    match job.split("-")[0]:
        case "train":
            with graceful_stop() as stop:
                begun.touch()
                while not stop.requested:
                    time.sleep(0.005)
                save(folder, job)
        case "evaluate":
            try:
                begun.touch()
                wait_for(folder / "never")
            except KeyboardInterrupt:
                save(folder, job)
                raise
        case "stuck":
            ignore_signals()
            begun.touch()
            wait_for(folder / "never")
        case "wait":
            wait_for(folder / f"{job} may end")
        case "after":
            wait_for(folder / f"{job.split('-')[1]} begun")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits":
            os._exit(3)
        case "wrong":
            raise InputError("a wrong word", "take another")
        case "bug":
            raise ZeroDivisionError("by hand")
        case "odd":
            raise OddError("odd", "error")
    return os.getpid()


def doubled(text: bytes) -> bytes:
    """Return something large."""
    return text * 2


def begin(place: int, folder: Path) -> None:
    """Begin at once, or never if the test says so."""
    (folder / f"starting {place}").touch()
    if (folder / "no start").exists():
        wait_for(folder / "never")


def main(folder: Path, seconds: float, jobs: list[str]) -> None:
    """Do jobs with two workers, as a command of the program does."""
    processes._SECONDS_TO_SAVE = seconds
    interrupt_once(way_out=True)
    try:
        with Workers(2, partial(work, folder=folder), partial(begin, folder=folder)) as workers:
            for job in jobs:
                workers.submit(job)
            while workers.busy:
                job, outcome = workers.next_ended()
                (folder / f"{job} ended").write_text(str(outcome))
            (folder / "all ended").touch()
            wait_for(folder / "never")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
