"""Handle SIGINT and SIGTERM: the first ends the work, later ones do not interrupt saving."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)
_WAY_OUT = 5  # signals that end the process at once
_heard = 0  # signals since `interrupt_once`
_way_out = False


def interrupt_once(*, way_out: bool = False) -> None:
    """Let the first SIGINT or SIGTERM from now on raise KeyboardInterrupt.

    Later ones do nothing: schedulers send several, and torchrun repeats those that the ranks got.

    Args:
        way_out: let the fifth one end the process at once, in case saving never ends.
    """
    global _heard, _way_out
    _heard, _way_out = 0, way_out

    def interrupt(number: int, _frame: FrameType | None) -> None:
        global _heard
        _heard += 1
        if _heard == 1:
            raise KeyboardInterrupt
        _end_if_nobody_waits(number, _heard)

    _install(interrupt)


def _end_if_nobody_waits(number: int, heard: int) -> None:
    if _way_out and heard >= _WAY_OUT:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on."""
    _install(lambda *_: None)  # not SIG_IGN, which child processes would inherit


class StopRequest:
    """Whether the user asked the run to end."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the loop reads between steps.

    They count as signals of `interrupt_once`, and its way out applies here too.
    """
    request, heard = StopRequest(), 0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        global _heard
        heard += 1
        _heard = max(_heard, heard)
        request.requested = True
        _end_if_nobody_waits(number, heard)

    previous = _install(ask)
    try:
        yield request
    finally:
        _restore(previous)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block.

    A process started inside begins with them blocked; see `let_signals_in`.
    """
    held: list[int] = []
    previous = _install(lambda number, _: held.append(number))
    # The mask alone is not enough: another thread may take a signal whose handler runs in this one.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _restore(previous)
        for number in dict.fromkeys(held):
            signal.raise_signal(number)


def let_signals_in() -> None:
    """Unblock the signals that were blocked when this process started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _install(handler: Callable[[int, FrameType | None], Any]) -> Mapping[int, Any]:
    """Set a handler for both and return the former ones; does nothing outside the main thread.

    An ignored signal stays ignored: a shell has put this process into the background.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _restore(previous: Mapping[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
