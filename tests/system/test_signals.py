"""What SIGINT and SIGTERM do to a process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tinyohem.system.signals import graceful_stop, ignore_signals, interrupt_once, signals_held_back

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class TestGracefulStop:
    @pytest.mark.parametrize("number", NUMBERS)
    def test_a_signal_becomes_a_request_and_handlers_come_back(self, number: int) -> None:
        before = signal.getsignal(number)
        with graceful_stop() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
            assert signal.getsignal(number) is not before
        assert signal.getsignal(number) is before

    def test_handlers_come_back_after_a_failure(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(RuntimeError), graceful_stop():
            raise RuntimeError
        assert signal.getsignal(signal.SIGINT) is before

    def test_another_thread_gets_a_request_that_nothing_sets(self) -> None:
        seen = []

        def work() -> None:
            with graceful_stop() as stop:
                seen.append(stop.requested)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [False]

    def test_the_fifth_signal_ends_the_process_in_a_graceful_stop(self) -> None:
        program = """
import signal
from tinyohem.system.signals import graceful_stop, interrupt_once
interrupt_once(way_out=True)
with graceful_stop():
    for heard in range(1, 9):
        print(heard, flush=True)
        signal.raise_signal(signal.SIGINT)
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout.split()[-1]) == (-signal.SIGINT, "5")

    def test_a_signal_that_it_heard_was_the_first_one(self) -> None:
        interrupt_once()
        with graceful_stop():
            for number in NUMBERS * 3:
                signal.raise_signal(number)
        for number in NUMBERS:  # what follows tidies up, and is not broken off
            signal.raise_signal(number)


class TestInterruptOnce:
    @pytest.mark.parametrize("first", NUMBERS)
    def test_the_first_signal_raises_and_later_ones_do_nothing(self, first: int) -> None:
        interrupt_once()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(first)
        for number in NUMBERS * 5:
            signal.raise_signal(number)

    def test_interrupt_once_counts_signals_anew(self) -> None:
        for _ in range(2):
            interrupt_once()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)

    @pytest.mark.parametrize("number", NUMBERS)
    def test_the_fifth_signal_ends_the_process(self, number: int) -> None:
        program = f"""
import signal
from tinyohem.system.signals import interrupt_once
interrupt_once(way_out=True)
for count in range(1, 7):
    print(count, flush=True)
    try:
        signal.raise_signal({int(number)})
    except KeyboardInterrupt:
        pass
"""
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout.split()) == (-number, list("12345"))

    def test_a_signal_that_the_shell_ignores_stays_ignored(self) -> None:
        """As SIGINT is in a script's background job."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt_once()
        with graceful_stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_ignored_signals_do_nothing() -> None:
    ignore_signals()
    for number in NUMBERS:
        signal.raise_signal(number)


class TestHeldBack:
    @pytest.mark.parametrize("by_another_thread", [False, True])
    def test_a_held_back_signal_comes_once_the_block_has_ended(
        self, by_another_thread: bool
    ) -> None:
        """The kernel hands it to any thread that does not block it."""
        interrupt_once()
        ended, idle = [], threading.Event()
        thread = threading.Thread(target=idle.wait)
        if by_another_thread:
            thread.start()

        def held_back() -> None:
            with signals_held_back():
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append(sum(range(1000)))

        with pytest.raises(KeyboardInterrupt):
            held_back()
        assert ended == [499_500]
        idle.set()

    def test_holding_back_without_a_signal_changes_nothing(self) -> None:
        before = [signal.getsignal(number) for number in NUMBERS]
        with signals_held_back():
            pass
        assert [signal.getsignal(number) for number in NUMBERS] == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()).isdisjoint(NUMBERS)
