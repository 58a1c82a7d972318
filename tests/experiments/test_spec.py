"""Reading a comparison from a file and the command line."""

from pathlib import Path

import pytest

from tinyohem.errors import InputError
from tinyohem.experiments.spec import check, plan_comparison

FILE = """
seeds = [4, 7]
budget = "equal-seconds"

[common.model]
preset = "0.5m"

[common.training]
tokens = "4M"

[arms.full.ohem]
ratio = 1.0

[arms.top.ohem]
ratio = 0.5
"""


def test_the_command_line_adds_arms_and_overrides_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(FILE)
    arms = ["control:random,ohem.ratio=0.4", "ohem"]
    plan = plan_comparison(file, arms, "3", None, {"training": {"tokens": "1M"}})
    assert [arm.name for arm in plan.arms] == ["full", "top", "control", "ohem"]
    assert plan.seeds == (0, 1, 2)
    assert plan.budget == "equal-seconds"
    control = plan.config(plan.arms[2], seed=2)
    assert (control.ohem.select, control.ohem.ratio) == ("random", 0.4)
    assert (control.model.preset, control.training.tokens) == ("0.5m", "1M")
    assert control.training.seed == 2


def test_an_arm_named_like_a_recipe_starts_from_that_recipe() -> None:
    (arm,) = plan_comparison(None, ["random:ohem.ratio=0.25"], None, None, {}).arms
    assert arm.tree["ohem"]["select"] == "random"
    assert arm.tree["ohem"]["ratio"] == 0.25


def test_a_quoted_value_may_hold_commas() -> None:
    plan = plan_comparison(None, ['x:ohem.schedule="0:1,0.5:0.5,1:1",optim.lr=0.1'], None, None, {})
    config = plan.config(plan.arms[0], seed=0)
    assert (config.ohem.schedule, config.optim.lr) == ("0:1,0.5:0.5,1:1", 0.1)


def test_what_an_arm_sets_wins_over_what_all_share() -> None:
    plan = plan_comparison(None, ["x:optim.lr=0.1"], None, None, {"optim": {"lr": 0.2, "beta1": 0}})
    optim = plan.config(plan.arms[0], seed=0).optim
    assert (optim.lr, optim.beta1) == (0.1, 0)


def test_seeds_are_a_count_or_a_list(tmp_path: Path) -> None:
    assert plan_comparison(None, [], "2", None, {}).seeds == (0, 1)
    assert plan_comparison(None, [], "0,4,7", None, {}).seeds == (0, 4, 7)
    assert plan_comparison(None, [], None, None, {}).seeds == (0, 1, 2)
    assert plan_comparison(None, [], "7,", None, {}).seeds == (7,)
    for wrong in ("three", "0", "", "1,1", "-1"):
        with pytest.raises(InputError, match="seeds"):
            plan_comparison(None, [], wrong, None, {})


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        (["baseline"], "3", "two arms"),
        (["baseline", "x:baseline", "x:ohem"], "3", "share a name"),
        (["baseline", "x:ohem.ratoi=1"], "3", "did you mean ohem.ratio"),
        (["baseline", "x:ohem.ratio=2"], "3", "ohem.ratio = 2"),
        (["baseline", "nonsense"], "3", "no recipe 'nonsense'"),
        (["baseline", "../up:ohem"], "3", "cannot name a folder"),
        (["baseline", "other:data.dataset=a.txt"], "3", "other data"),
        (["baseline", "quickstart"], "3", "other data"),
        (["baseline", "x:training.seconds=9"], "3", "ends the arm 'x', whatever its tokens"),
        (["baseline", "x:training.minutes=9"], "3", "gives the arm 'x' its own number of steps"),
        (["baseline:training.stop_at_step=5", "ohem"], "3", "'baseline' ahead of its result"),
    ],
)
def test_bad_arms_are_refused(arms: list[str], seeds: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(plan_comparison(None, arms, seeds, None, {}))


@pytest.mark.parametrize(
    ("arm", "message", "hint"),
    [
        ("full", "there is no recipe 'full'", "such as full:ohem.ratio=1.0"),
        ("omen", "there is no recipe 'omen'; did you mean ohem?", "an arm is a recipe"),
        ("x:ohem.schedule=0:1,0.5:0.5,1:1", "'0.5:0.5' in ", """'name:ohem.schedule="…,…"'"""),
        ("x:ohem.ratio=1,curriculum.metric=mtld,flesch", "'flesch' in ", "name:curriculum.metric"),
        ("x:ohem.mix=topk=0.5,random=0.5", "'random=0.5' in ", "name:ohem.mix"),
        ("x:ohem.ratio=0.5,gone.toml", "cannot read the recipe gone.toml", "check the path"),
    ],
)
def test_the_hint_says_how_to_write_an_arm(arm: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_comparison(None, [arm], None, None, {})
    assert caught.value.message.startswith(message)
    assert hint in str(caught.value.hint)


def test_settings_and_recipes_in_any_order() -> None:
    arm = "x:ohem.ratio=0.25,optim.beta1=0.8, random, training.seq_len=64"
    (parsed,) = plan_comparison(None, [arm], None, None, {}).arms
    assert parsed.tree["optim"] == {"beta1": 0.8}
    assert parsed.tree["training"] == {"seq_len": 64}
    assert parsed.tree["ohem"]["select"] == "random"


def test_a_folder_or_nothing_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not the TOML file") as caught:
        plan_comparison(tmp_path, [], None, None, {})
    assert "--out" in str(caught.value.hint)
    with pytest.raises(InputError, match=r"gone.toml: No such file or directory$"):
        plan_comparison(tmp_path / "gone.toml", [], None, None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = ", "cannot read"),
        ("sedes = 3", "unknown key 'sedes'"),
        ('budget = "equal-joules"', "equal-joules"),
        ("[arms]\nfull = 3", "not a table"),
        ("arms = 3", "not a table"),
        ("seeds = [1, 1]", "twice"),
        ("seeds = []", "no count"),
        ("[arms.full.ohme]\nratio = 1", "did you mean ohem"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        plan_comparison(file, [], None, None, {})


def test_it_warns_of_few_seeds_and_of_a_missing_control() -> None:
    few, control = check(plan_comparison(None, ["baseline", "ohem"], "2", None, {}))
    assert "2 seed(s)" in few
    assert "random" in control
    arms = ["baseline", "ohem", "random", "a:ohem.ratio=0.5,ohem.schedule=adaptive"]
    assert not check(plan_comparison(None, arms, "3", None, {}))
    for setting in ("ohem.ratio=0.25", "ohem.schedule=anneal"):
        arms = ["baseline", f"odd:ohem,{setting}", "random"]
        (control,) = check(plan_comparison(None, arms, "3", None, {}))
        assert "no arm selects at random as many tokens as 'odd'" in control
    assert not check(plan_comparison(None, ["baseline", "b:optim.lr=0.1"], "3", None, {}))
    by_schedule = plan_comparison(
        None, ["baseline", "b:ohem.schedule=anneal-quarter"], "3", None, {}
    )
    assert "random" in check(by_schedule)[0]


def test_it_warns_of_arms_that_are_validated_differently() -> None:
    for setting in ("seq_len", "eval_tokens"):
        arms = ["baseline", f"b:training.{setting}=128"]
        (warning,) = check(plan_comparison(None, arms, "3", None, {}))
        assert f"arms differ in {setting}" in warning


@pytest.mark.parametrize("own", ["data.dataset=other.jsonl", "target.stories=good.jsonl"])
def test_it_warns_of_vocabularies_that_differ(own: str) -> None:
    tree = {"data": {"dataset": "all.jsonl", "valid": "valid.jsonl"}}
    arms = ["full:ohem.ratio=1.0", f"own:{own}"]
    (warning,) = check(plan_comparison(None, arms, "3", None, tree))
    assert "only bits per byte compare" in warning
    one = {**tree, "tokenizer": {"name": "one"}}
    assert check(plan_comparison(None, arms, "3", None, one)) == []


def test_a_baseline_in_seconds_is_a_budget_in_seconds() -> None:
    plan = plan_comparison(
        None, ["a:training.seconds=9", "b:optim.lr=0.1"], "3", "equal-seconds", {}
    )
    assert check(plan) == []


def test_a_curriculum_without_an_end_is_refused_before_anything_runs() -> None:
    arms = ["baseline", "c:curriculum.enabled=true"]
    with pytest.raises(InputError, match="curriculum needs a budget"):
        check(plan_comparison(None, arms, "3", "equal-seconds", {}))
