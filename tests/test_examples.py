"""The examples run as they stand, on the built-in stories, and their models learn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plain_loop(tmp_path: Path) -> None:
    shown = run("own_loop.py", tmp_path)
    found = re.findall(r"step (\d+)  loss ([\d.]+)  kept (\d+)%", shown)
    losses = [float(loss) for _, loss, _ in found]
    assert [step for step, *_ in found] == ["10", "20", "30", "40", "50", "60"]
    assert losses[0] > losses[-1] + 0.5
    assert [kept for *_, kept in found] == ["100", "69", "50", "50", "100", "100"]


def test_the_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    shown = run("hf_trainer.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", shown)]
    assert len(losses) == 6
    assert losses[0] > float(re.findall(r"of all tokens: loss ([\d.]+)", shown)[0]) + 0.5
    assert list(tmp_path.iterdir()) == []


def test_each_is_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 36, path
