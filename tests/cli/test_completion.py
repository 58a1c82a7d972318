"""Completion in a shell: commands, options and their words, and nothing slow on the way."""

import os
import subprocess
import sys

import pytest

ENTRY = "import sys; from tinyohem_cli.main import run; sys.argv[0] = 'tinyohem'; "


def completed(words: str, code: str = "run()") -> list[str]:
    """Return what bash is offered after these words, the last of which is incomplete."""
    asked = {
        "_TINYOHEM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [sys.executable, "-c", ENTRY + code]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tinyohem tr", ["train"]),
        ("tinyohem re", ["report", "recipes"]),
        ("tinyohem recipes s", ["show"]),
        ("tinyohem train --ohem-sco", ["--ohem-score", "--ohem-scope"]),
        ("tinyohem train --ohem-score e", ["excess_loss", "entropy"]),
        ("tinyohem train --model 1", ["1m", "15m"]),
        ("tinyohem train --recipe qu", ["quickstart"]),
        ("tinyohem train --resume a", ["auto"]),
        ("tinyohem compare --budget equal-t", ["equal-tokens"]),
    ],
)
def test_words_complete(words: str, offered: list[str]) -> None:
    assert sorted(completed(words)) == sorted(offered)


def test_every_option_of_named_words_offers_them() -> None:
    from tinyohem.config.run import known_keys
    from tinyohem.config.sections import choices, flag_of
    from tinyohem_cli.main import load_command

    options = {option.opts[0]: option for option in load_command("train").params}
    named = {
        flag_of(field): choices(field)
        for keys in known_keys().values()
        for field in keys.values()
        if choices(field) and flag_of(field)
    }
    assert {"--ohem-select", "--ohem-score", "--pacing", "--model", "--wandb"} <= set(named)
    for flag, words in named.items():
        found = options[flag].shell_complete(None, "")
        assert tuple(item.value for item in found) == words


def test_it_loads_no_torch() -> None:
    code = (
        "import atexit; heavy = {'torch', 'transformers', 'numpy'}; "
        "atexit.register(lambda: print(heavy & set(sys.modules))); run()"
    )
    assert completed("tinyohem train --ohem-score e", code) == ["excess_loss", "entropy", "set()"]


def test_the_script_for_a_shell_is_shown() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", ENTRY + "run()"],
        env=os.environ | {"_TINYOHEM_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
    ).stdout
    assert "_TINYOHEM_COMPLETE=complete_bash" in shown
