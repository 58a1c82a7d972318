"""The command that a stopped run prints: run as it stands, it finishes the run."""

import shlex
from pathlib import Path

import pytest
import tiny

RECIPE = """[data]
dataset = {corpus}
[tokenizer]
vocab_size = 320
[model]
hidden_size = 16
num_layers = 1
num_heads = 2
intermediate_size = 32
[training]
{keys}
[optim]
optimizer = "adamw"
lr = 4e-3
schedule = "cosine"
"""
STOP = "training.stop_at_step"


@pytest.mark.parametrize("stops_by", ["set", "recipe", "both", "extended recipe", "twice"])
@pytest.mark.parametrize("out", [["--out", "my run; #1"], ["--out=run"], []], ids=str)
def test_the_printed_command_finishes_the_run(
    corpus: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tinyohem: tiny.Command,
    stops_by: str,
    out: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = {k: v for k, v in tiny.RECIPE.items() if k.startswith("training.")}
    if stops_by in ("recipe", "both", "extended recipe"):
        keys[STOP] = 7
    lines = [f"{key.removeprefix('training.')} = {value!r}" for key, value in keys.items()]
    Path("own.toml").write_text(RECIPE.format(corpus=repr(str(corpus)), keys="\n".join(lines)))
    Path("above.toml").write_text('extends = "own.toml"\n')
    recipe = "above.toml" if stops_by == "extended recipe" else "own.toml"
    command = ["train", "--recipe", recipe, *out]
    given = {"set": [f"--set={STOP}=9"], "both": ["--set", f" {STOP} = 9"]}
    given["twice"] = ["--set", f"{STOP}=3", "--set=training.log_every=2", f"--set={STOP}=5"]
    command += given.get(stops_by, [])

    stopped = tinyohem(*command, "--resume=never")
    assert stopped.code == 0, stopped.err
    go_on = stopped.out.splitlines()[-1].removeprefix("go on with: ")
    program, *arguments = shlex.split(go_on)
    assert program == "tinyohem"
    assert (STOP in go_on) == ("recipe" in stops_by or stops_by == "both")
    finished = tinyohem(*arguments)
    assert finished.code == 0, finished.err
    assert "go on with" not in finished.out
    run_dir = out[-1].removeprefix("--out=") if out else next(Path("runs").iterdir())
    assert tiny.saved_hashes(Path(run_dir)) == tiny.saved_hashes(finished_run)


@pytest.mark.parametrize("resume", [["--resume", "must"], ["--resume=must"], ["--resume=auto"]])
def test_the_printed_command_resumes_with_auto_only(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, resume: list[str]
) -> None:
    command = ["train", *tiny.flags(corpus), "--out", tmp_path / "run"]
    assert tinyohem(*command, "--set", f"{STOP}=3").code == 0
    stopped = tinyohem(*command, "--set", f"{STOP}=6", *resume)
    arguments = shlex.split(stopped.out.splitlines()[-1].removeprefix("go on with: "))
    assert arguments == ["tinyohem", *map(str, command), "--resume", "auto"]


@pytest.mark.parametrize("way", ["set", "recipe", "file"])
def test_a_comparison_refuses_keys_that_end_its_runs_early(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, way: str
) -> None:
    """It would never come to a table, however often it is repeated."""
    table = tmp_path / "own.toml"
    table.write_text("[training]\nstop_at_step = 3\n")
    plan = tmp_path / "plan.toml"
    plan.write_text("[common.training]\nstop_at_step = 3\n[arms.a]\n[arms.b.ohem]\nratio = 0.5\n")
    arms = ["--arm", "full:ohem.ratio=1.0", "--arm", "random"]
    given = {"set": [*arms, f"--set={STOP}=3"], "recipe": [*arms, "--recipe", table]}
    command = ["compare", *given.get(way, [plan]), *tiny.flags(corpus), "--out", tmp_path / "out"]
    refused = tinyohem(*command)
    assert refused.code == 2
    assert f"{STOP} ends the arm" in refused.err
    assert not (tmp_path / "out").exists()
