"""A tiny corpus, a run trained on it, and the command line: what whole-program tests share."""

import os
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import tiny
from hypothesis import settings

from tinyohem.data.sample.stories import sample_stories

# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep prepared corpora out of the checkout and share them; do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setenv("TINYOHEM_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training and a validation split."""
    folder = tmp_path_factory.mktemp("corpus")
    tiny.write_stories(folder / "train.jsonl", islice(sample_stories("train"), 120))
    tiny.write_stories(folder / "valid.jsonl", islice(sample_stories("validation"), 12))
    return folder


@pytest.fixture(scope="session")
def finished_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 20 steps. Read it, do not write into it."""
    from tinyohem.training.loop import train

    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny.config(corpus), run_dir)
    return run_dir


@pytest.fixture
def one_process() -> Iterator[None]:
    """See `tiny.one_process`."""
    with tiny.one_process():
        yield


@pytest.fixture
def tinyohem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tiny.Command:
    """Run the command line in this process: `tinyohem("train", "--steps", "3")`."""
    from tinyohem_cli import console, main

    # Whatever the terminal of these tests: no heading breaks.
    monkeypatch.setattr(console.out, "width", 200)

    def command(*arguments: object) -> tiny.Outcome:
        monkeypatch.setattr(sys, "argv", ["tinyohem", *map(str, arguments)])
        capsys.readouterr()
        code = main._run()
        return tiny.Outcome(code, *capsys.readouterr())

    return command
