"""The scripts that make the published tables: what they run, and that it would be accepted."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyohem.experiments.spec import check, plan_comparison

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.toml")))
def test_a_comparison_file_is_one(name: str) -> None:
    check(plan_comparison(SCRIPTS / name, [], None, None, {"data": {"valid": "valid.jsonl"}}))


def who_gains(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "who_gains.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def scored_run(folder: Path, arm: str, seed: int, losses: list[float], tokens: int = 10) -> None:
    (run := folder / f"{arm}-seed{seed}").mkdir()
    (run / "result.json").touch()
    names = ("rare word", "no word")
    groups = [
        {"name": name, "loss": loss, "tokens": tokens * (number + 1)}
        for number, (name, loss) in enumerate(zip(names, losses, strict=True))
    ]
    (run / "roles.json").write_text(json.dumps({"by": {"role": groups}}))


def test_who_gains_pairs_an_arm_with_the_baseline_by_seed_and_role(tmp_path: Path) -> None:
    for seed, offset in enumerate((0.1, 0.2, 0.6)):
        scored_run(tmp_path, "full", seed, [7 + seed, 1.0])
        scored_run(tmp_path, "topk", seed, [7 + seed + offset, 0.5])
    scored_run(tmp_path, "full", 3, [100.0, 1.0])  # a seed that the arm lacks
    shown = who_gains(tmp_path, "topk")
    assert shown.returncode == 0, shown.stderr
    # Mean 0.3, sd 0.2646: 0.3 ± 4.3027 · 0.2646 / √3; t = 1.9640 with two degrees of freedom.
    rare = "| rare word | 33.3% | 31.000 ± 46.007 | +0.300 (-0.357 to +0.957, p 0.19) |"
    rest = "| no word | 66.7% | 1.000 ± 0.000 | -0.500 (-0.500 to -0.500, p 0) |"
    assert shown.stdout.splitlines()[2:] == [rare, rest]


def test_who_gains_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = who_gains(*arguments)
        assert done.returncode == 2
        error, hint = done.stderr.splitlines()
        assert hint.startswith("hint: ")
        return error

    assert "at least one arm" in refused(tmp_path)
    scored_run(tmp_path, "full", 0, [7.0, 1.0])
    assert "no topk-seed*/roles.json" in refused(tmp_path, "topk")
    scored_run(tmp_path, "topk", 1, [7.0, 1.0])
    assert "no seed in common" in refused(tmp_path, "topk")
    scored_run(tmp_path, "topk", 0, [7.0, 1.0], tokens=11)
    assert "topk-seed0 was scored on other tokens" in refused(tmp_path, "topk")
    (tmp_path / "topk-seed0" / "roles.json").write_text("")
    assert "topk-seed0/roles.json is no output" in refused(tmp_path, "topk")


def make_pool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "make_pool.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_pool_holds_every_story_once_and_its_share_of_junk(tmp_path: Path) -> None:
    stories = [f"Tom {'ran ' * (n % 7)}and saw {n} cats.\n\nA dog." for n in range(100)]
    source = tiny.write_stories(tmp_path / "stories.jsonl", [*stories, stories[3]])
    arguments = (source, "--junk", 0.5, "--target", 20, "--seed", 1, "--out")
    for name in ("a", "b"):
        made = make_pool(*arguments, tmp_path / name / "pool.jsonl")
        assert made.returncode == 0, made.stderr
    for name in ("pool.jsonl", "target.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    pool = rows_of(tmp_path / "a" / "pool.jsonl")
    target = {row["text"] for row in rows_of(tmp_path / "a" / "target.jsonl")}
    by_kind: dict[str, list[str]] = {}
    for row in pool:
        by_kind.setdefault(row["kind"], []).append(row["text"])
    assert {kind: len(texts) for kind, texts in by_kind.items()} == {
        "story": 80,
        **dict.fromkeys(("docstring", "shuffled", "replaced", "boilerplate"), 20),
    }
    assert len(target) == 20
    assert sorted([*target, *by_kind["story"]]) == sorted(stories)
    bags = {tuple(sorted(text.split())) for text in by_kind["story"]}
    assert all(tuple(sorted(text.split())) in bags for text in by_kind["shuffled"])
    assert all(row.count("\n\n") == 1 for row in by_kind["shuffled"] + by_kind["replaced"])
    assert not set(by_kind["docstring"]) & set(stories)


def test_a_pool_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    source = tiny.write_stories(tmp_path / "stories.jsonl", ["One.", "Two."])
    out = tmp_path / "pool.jsonl"
    for wrong, error in ((("--junk", 1), "share of junk is 1"), ((), "leaves no story")):
        made = make_pool(source, *wrong, "--out", out)
        assert (made.returncode, error in made.stderr) == (2, True)
        assert not out.exists()


def test_the_gpu_benchmark_measures_and_writes_its_table(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    """Its commands for real, only smaller, uncompiled and on the CPU."""
    python, found = tmp_path / "python", tmp_path / "found"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> "$CALLS"; echo >> "$CALLS"\n')
    python.chmod(0o755)
    small = {**tiny.RECIPE, "data.dataset": str(corpus), "training.compile": False}
    flags = [f"--set={key}={json.dumps(value)}" for key, value in small.items()]
    subprocess.run(
        ["bash", SCRIPTS / "bench_gpu.sh", "--out", "found", "--device", "cpu", *flags],
        env={**os.environ, "PYTHON": str(python), "CALLS": str(tmp_path / "calls")},
        cwd=tmp_path,
        check=True,
    )
    calls = (tmp_path / "calls").read_text().rstrip().split("\n\n")
    bench, compiled, train, table = (call.splitlines() for call in calls)
    assert bench[:3] == ["-m", "tinyohem_cli", "bench"]
    assert compiled == [*bench, "--compile"]
    assert train[:3] == ["-m", "tinyohem_cli", "train"]
    measured = tinyohem(*bench[2:])
    assert measured.code == 0, measured.err
    (found / "bench.json").write_text(measured.out)
    trained = tinyohem(*train[2:])
    assert trained.code == 0, trained.err
    written = subprocess.run(
        [sys.executable, *table], cwd=SCRIPTS.parent, capture_output=True, text=True, check=True
    )
    first, *_, last = lines = written.stdout.splitlines()
    assert first.startswith("cpu, torch ")
    assert "4 × 32 tokens a step" in first
    names = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    assert names[2:5] == ["| full", "| topk-0.75", "| topk-0.5"]
    assert re.fullmatch(
        r"`2m` on 2,560 tokens: [\d.]+ s, [\d.]+ s at the pace of its steps 2 to 20, "
        r"without the first ones, which may compile",
        last,
    )


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


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The fuzzing script, without the fuzzer."""
    spec = spec_from_file_location("readers", SCRIPTS / "fuzz" / "readers.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WORK = tmp_path_factory.mktemp("fuzz")  # type: ignore[attr-defined]
    return module


def test_every_fuzzed_reader_takes_its_seed_or_refuses_it(fuzz: Any) -> None:
    """Nobody fuzzes what cannot be called."""
    for name, read in fuzz.READERS.items():
        fuzz._seeds(name, fuzz.WORK / name)
        try:
            read((fuzz.WORK / name / "seed").read_bytes())
        except (fuzz.TinyohemError, *fuzz.ALSO.get(name, ())):
            # They stand beside files that are not there, or bear another hash.
            assert name in ("checkpoint", "plan", "tokens")
