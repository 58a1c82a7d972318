"""The wheel holds all that the program reads, and works outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "tinyohem", "cli", "recipes")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that no build folder is left among them."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel alone, and sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # An editable install of ours is not seen: only the .pth files of a site folder are read.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return folder / "bin"


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "-q", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(command: Path, *arguments: object, folder: Path) -> str:
    """Run a program of the environment in a folder of its own; return what it prints."""
    bare = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [command, *map(str, arguments)],
        cwd=folder,
        env=bare | {"TINYOHEM_DATA": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    packages = {"tinyohem": "tinyohem", "cli": "tinyohem_cli", "recipes": "tinyohem_recipes"}
    expected = {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, name in packages.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as files:
        held = {name for name in files.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert "tinyohem/report/templates/report.html.jinja" in held


@pytest.mark.slow
def test_it_trains_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    tinyohem = installed / "tinyohem"
    code = "import tinyohem, tinyohem_cli; print(tinyohem.__file__, tinyohem_cli.__file__)"
    homes = run(installed / "python", "-c", code, folder=tmp_path).split()
    assert all(str(installed.parent) in home for home in homes)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(tinyohem, "--version", folder=tmp_path) == f"tinyohem {version}\n"
    small = ("--set", "training.eval_tokens=500", "--model", "260k", "--device", "cpu")
    steps = ("--dataset", "sample", "--steps", 3, "--out", "run", "--json")
    shown = json.loads(run(tinyohem, "train", *steps, *small, folder=tmp_path))
    assert (shown["finished"], shown["steps"]) == (True, 3)
    assert "quickstart" in run(tinyohem, "recipes", "list", folder=tmp_path)
    run(tinyohem, "report", "run", "--out", "report.html", folder=tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()
