"""The scripts that make the published tables: what they run, and that it would be accepted."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tinyohem.evaluation.comparison import check, plan_comparison

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("name", ["table.toml", "methods.toml", "sweep-0.5m.toml", "sweep-2m.toml"])
def test_a_comparison_file_is_one(name: str) -> None:
    check(plan_comparison(SCRIPTS / name, [], None, None, {}))


class TestReproduce:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        """A checkout whose program and `make` write down what they are asked."""
        clone = tmp_path / "clone"
        shutil.copytree(SCRIPTS, clone / "scripts")
        for path in (clone / ".venv" / "bin" / "tinyohem", tmp_path / "bin" / "make"):
            path.parent.mkdir(parents=True)
            path.write_text('#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n')
            path.chmod(0o755)
        return clone

    def calls(self, clone: Path, *arguments: str) -> list[str]:
        folder = clone.parent
        log = folder / "calls"
        env = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "CALLS": str(log)}
        command = ["bash", str(clone / "scripts" / "reproduce.sh"), *arguments]
        subprocess.run(command, check=True, cwd=folder, env=env)
        return log.read_text().splitlines()

    def test_files_and_folders_are_those_of_where_it_was_called(self, clone: Path) -> None:
        here = clone.parent
        (here / "stories.jsonl").touch()
        make, table, seconds, report = self.calls(
            clone, "--dataset", "stories.jsonl", "--valid", "org/name", "--out", "mine"
        )
        assert make == "make --silent .venv/.installed-plots"
        shared = f"--dataset {here}/stories.jsonl --valid org/name --model 0.5m --tokens 4M"
        assert table.startswith(f"tinyohem compare scripts/table.toml {shared} ")
        assert table.endswith(f" --out {here}/mine")
        assert f" {shared} " in seconds
        assert f" --out {here}/mine-seconds --budget equal-seconds --workers 1 " in seconds
        assert report == f"tinyohem report {here}/mine --out {here}/mine/report.html"

    def test_a_folder_named_from_the_root_stays_there(self, clone: Path, tmp_path: Path) -> None:
        *_, report = self.calls(clone, "--quick", "--out", str(tmp_path / "there"))
        assert report == f"tinyohem report {tmp_path}/there --out {tmp_path}/there/report.html"

    def test_without_stories_nothing_runs(self, clone: Path) -> None:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self.calls(clone)
        assert caught.value.returncode == 2
        assert not (clone.parent / "calls").exists()
