"""What `chaos/test_kills.py` starts and kills: commands in processes that begin at once.

They are forked from a server that has imported the program, so that a kill meets work and not the
loading of torch.
"""

import os
import sys
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# Not this file: before Python 3.13 the server does not look where pytest does.
_LOADED_AHEAD = ["tinyohem_cli.main", "tinyohem.training.loop", "tinyohem.training.mine_run"]
_LOADED_AHEAD += ["tinyohem.experiments.run", "transformers.models.llama.modeling_llama"]


def start(arguments: list[str], data: Path, log: Path) -> ForkServerProcess:
    """Start a command in a process group of its own.

    Args:
        arguments: of `tinyohem`.
        data: its folder of prepared corpora.
        log: takes all that it prints.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(_LOADED_AHEAD)
    process = context.Process(target=_run, args=(arguments, str(data), str(log)))
    process.start()
    return process


def _run(arguments: list[str], data: str, log: str) -> None:
    from tinyohem_cli import main

    os.setpgrp()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ["TINYOHEM_DATA"] = data
    sys.argv = ["tinyohem", *arguments]
    main.run()
