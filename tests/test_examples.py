"""The examples run as they stand, on the built-in stories, and their models learn."""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def shown(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What the example that a test names prints, run as a script in an empty folder."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / request.param), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("shown", ["own_loop.py"], indirect=True)
def test_a_plain_loop(shown: str) -> None:
    found = re.findall(r"step (\d+)  loss ([\d.]+)  kept (\d+)%", shown)
    losses = [float(loss) for _, loss, _ in found]
    assert [step for step, *_ in found] == ["10", "20", "30", "40", "50", "60"]
    assert losses[0] > losses[-1] + 0.5
    assert [kept for *_, kept in found] == ["71", "50", "100", "100", "100", "100"]


@pytest.mark.skipif(find_spec("accelerate") is None, reason="needs accelerate")
@pytest.mark.parametrize("shown", ["hf_trainer.py"], indirect=True)
def test_the_trainer(shown: str, tmp_path: Path) -> None:
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", shown)]
    assert len(losses) == 6
    assert losses[0] > float(re.findall(r"of all tokens: loss ([\d.]+)", shown)[0]) + 0.5
    assert list(tmp_path.iterdir()) == []


def test_each_is_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 36, path
