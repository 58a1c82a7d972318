"""Recipes: precedence, refusals, token budgets, the shipped recipes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tinyohem.config.recipes import load_config, read_recipe, recipe_names, recipe_text
from tinyohem.config.run import RESUME_MAY_CHANGE, RunConfig, validate_config
from tinyohem.config.schedule import NAMED_SCHEDULES
from tinyohem.config.sections import parse_tokens
from tinyohem.errors import InputError


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refusal(**arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        load_config(**arguments)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


class TestPrecedence:
    def test_recipe_then_flags_then_set(self, tmp_path: Path) -> None:
        recipe = write(tmp_path / "r.toml", "[ohem]\nratio = 0.2\nmin_kept = 2\nscope = 'sequence'")
        flags = {"ohem.ratio": 0.3, "ohem.min_kept": 3, "model.preset": "1m"}
        ohem = load_config(recipe, flags, ["ohem.ratio=0.4"]).ohem
        assert (ohem.ratio, ohem.min_kept, ohem.scope) == (0.4, 3, "sequence")
        ohem = load_config(recipe, flags).ohem
        assert (ohem.ratio, ohem.min_kept, ohem.scope) == (0.3, 3, "sequence")
        ohem = load_config(recipe).ohem
        assert (ohem.ratio, ohem.min_kept, ohem.scope) == (0.2, 2, "sequence")

    def test_the_last_set_wins(self) -> None:
        config = load_config(assignments=["training.seed=1", "training.seed = 2"])
        assert config.training.seed == 2

    def test_without_recipe_and_flags_the_defaults_hold(self) -> None:
        assert load_config() == validate_config({})
        assert load_config().ohem.ratio == 1.0

    def test_the_sample_has_a_vocabulary_that_it_supports_unless_one_is_chosen(self) -> None:
        sample = {"data.dataset": "sample"}
        assert load_config(overrides=sample).tokenizer == load_config("quickstart").tokenizer
        for chosen in (
            {"tokenizer.vocab_size": 4096},
            {"tokenizer.name": "folder"},
            {"model.init_from": "folder"},
        ):
            assert load_config(overrides=sample | chosen).tokenizer.vocab_size == 4096
        stored = load_config(overrides=sample)
        assert validate_config(stored.model_dump()) == stored

    @pytest.mark.parametrize(
        ("assignment", "section", "key", "value"),
        [
            ("ohem.ratio=0.5", "ohem", "ratio", 0.5),
            ("ohem.schedule=recover", "ohem", "schedule", "recover"),
            ("ohem.schedule='0:1,1:0.5'", "ohem", "schedule", "0:1,1:0.5"),
            ("ohem.schedule=0:1,1:0.5", "ohem", "schedule", "0:1,1:0.5"),
            ("data.clean=true", "data", "clean", True),
            ("optim.lr=1e-3", "optim", "lr", 1e-3),
            ("data.dataset=a=b.jsonl", "data", "dataset", "a=b.jsonl"),
            ("training.tokens=4M", "training", "tokens", "4M"),
            ("training.tokens=250000", "training", "tokens", "250000"),
            ("data.dataset=2024", "data", "dataset", "2024"),
        ],
    )
    def test_set_reads_toml_or_a_bare_word(
        self, assignment: str, section: str, key: str, value: object
    ) -> None:
        found = load_config(assignments=[assignment])
        assert getattr(getattr(found, section), key) == value

    def test_set_null_resets_a_value(self, tmp_path: Path) -> None:
        recipe = write(tmp_path / "r.toml", "[training]\nstop_at_step = 3\nmicro_batch_size = 4")
        training = load_config(recipe, {}, ["training.stop_at_step=null"]).training
        assert (training.stop_at_step, training.micro_batch_size) == (None, 4)

    @pytest.mark.parametrize(
        "key", [f"{name}.{key}" for name, keys in RunConfig() for key in type(keys).model_fields]
    )
    def test_null_is_none_or_refused(self, key: str) -> None:
        section, _, name = key.partition(".")
        error = None
        try:
            found = load_config(assignments=[f"{key}=null"])
        except InputError as caught:
            error = caught
        if error is not None:
            assert error.message.startswith((key, f"[{section}]"))
        elif key != "optim.lr":  # by the width
            assert getattr(getattr(found, section), name) is None


class TestExtends:
    def test_a_child_lies_over_its_parent(self, tmp_path: Path) -> None:
        parent = write(
            tmp_path / "parent.toml",
            "description = 'p'\n[ohem]\nratio = 0.2\nmin_kept = 7\n[optim]\nlr = 1e-3",
        )
        child = write(
            tmp_path / "child.toml",
            f"extends = '{parent}'\n[ohem]\nratio = 0.9\n[model]\npreset='1m'",
        )
        assert read_recipe(child) == {
            "ohem": {"ratio": 0.9, "min_kept": 7},
            "optim": {"lr": 1e-3},
            "model": {"preset": "1m"},
        }

    def test_a_file_can_extend_a_built_in_recipe(self, tmp_path: Path) -> None:
        child = write(tmp_path / "child.toml", "extends = 'ohem'\n[training]\nseed = 5")
        config = load_config(child)
        assert (config.ohem.ratio, config.training.seed) == (0.5, 5)

    def test_extending_over_two_levels_is_refused(self, tmp_path: Path) -> None:
        child = write(tmp_path / "child.toml", "extends = 'random'")
        error = refusal(recipe=child)
        assert "which extends a third one" in error.message

    def test_a_missing_parent_recipe_is_refused(self, tmp_path: Path) -> None:
        child = write(tmp_path / "child.toml", "extends = 'quickstrat'")
        assert "did you mean quickstart?" in refusal(recipe=child).message


# Recipe: the one it extends, and all keys of [ohem] in which the two end up apart.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "importance": (
        "ohem",
        {"select": "importance", "score": "gradnorm", "denominator": "all"},
    ),
    "stratified": ("ohem", {"select": "stratified", "denominator": "all"}),
    "band": ("ohem", {"select": "band"}),
    "entropy": ("ohem", {"score": "entropy"}),
    "excess-loss": ("ohem", {"score": "excess_loss"}),
    "lag": ("ohem", {"score": "lag"}),
    "adaptive": (
        "baseline",
        {
            "ratio": 0.5,
            "schedule": "adaptive",
            "select": "importance",
            "score": "gradnorm",
            "denominator": "all",
        },
    ),
    "focal": ("baseline", {"weight": "focal"}),
    "ghm": ("baseline", {"weight": "ghm", "denominator": "all"}),
    "class-balanced": ("baseline", {"weight": "class_balanced"}),
}


class TestShippedRecipes:
    def test_the_shipped_recipes_are_these(self) -> None:
        shipped = {"baseline", "ohem", "quickstart", "random", "tinystories-2m"}
        assert shipped | set(METHODS) <= set(recipe_names())

    @pytest.mark.parametrize("name", recipe_names())
    def test_each_shipped_recipe_loads_and_describes_itself(self, name: str) -> None:
        load_config(name)
        assert recipe_text(name).startswith("description = ")

    def test_random_is_the_control_of_ohem(self) -> None:
        ohem, control = load_config("ohem"), load_config("random")
        assert control.ohem == ohem.ohem.model_copy(update={"select": "random"})
        assert control.model_copy(update={"ohem": ohem.ohem}) == ohem

    @pytest.mark.parametrize("name", METHODS)
    def test_a_method_differs_from_its_parent_in_what_it_says(self, name: str) -> None:
        parent, changes = METHODS[name]
        base, found = load_config(parent), load_config(name)
        assert found.model_copy(update={"ohem": base.ohem}) == base
        assert found.ohem == base.ohem.model_copy(update=changes)

    def test_the_spelled_out_recipe_is_the_defaults(self) -> None:
        assert load_config("tinystories-2m") == validate_config({})


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"ohem.ratio": 0}, "ohem.ratio = 0: Input should be greater than 0"),
            ({"ohem.ratio": 1.01}, "ohem.ratio = 1.01: Input should be less than or equal to 1"),
            ({"ohem.ratio": -0.5}, "ohem.ratio = -0.5: "),
            ({"ohem.ratio": float("nan")}, "ohem.ratio = nan: "),
            ({"ohem.ratio": "half"}, "ohem.ratio = 'half': "),
            ({"ohem.min_kept": 0}, "ohem.min_kept = 0: "),
            (
                {"ohem.select": "bottom"},
                "ohem.select = 'bottom': Input should be 'topk', 'threshold', 'band'",
            ),
            ({"ohem.scope": "rank"}, "ohem.scope = 'rank': Input should be 'batch' or"),
            ({"ohem.schedule": "0:1,0.6:0.5,0.4:1,1:1"}, "t falls back"),
            ({"ohem.schedule": "0:1,0.5:2,1:1"}, "ratio 2 at t = 0.5 is outside (0, 1]"),
            ({"ohem.schedule": "0:1,2:1"}, "must run from t = 0 to t = 1"),
            ({"ohem.schedule": "aneal"}, "neither a schedule's name"),
            ({"tokenizer.vocab_size": 256}, "tokenizer.vocab_size = 256: "),
            ({"training.seq_len": 1}, "training.seq_len = 1: "),
            ({"training.seq_len": 1.5}, "training.seq_len = 1.5: "),
            ({"training.batch_size": 0}, "training.batch_size = 0: "),
            ({"training.steps": 0}, "training.steps = 0: "),
            ({"training.seed": 2**32}, "training.seed = 4294967296: "),
            ({"training.tokens": "lots"}, "training.tokens = 'lots' is not a number of tokens"),
            (
                {"training.batch_size": 32, "training.micro_batch_size": 5},
                "[training]: micro_batch_size = 5 must divide batch_size = 32",
            ),
            (
                {"ohem.select": "threshold", "ohem.ratio": 0.5, "ohem.queue_steps": 8193},
                "ohem.queue_steps = 8,193 is more than the 8,192 steps of 2,048 tokens",
            ),
            ({"optim.lr": float("inf")}, "optim.lr = inf: "),
            ({"optim.warmup_fraction": 1.0}, "optim.warmup_fraction = 1.0: "),
            ({"model.preset": "3m"}, "model.preset = '3m': Input should be '260k'"),
            ({"tracking.wandb": "on"}, "tracking.wandb = 'on': "),
        ],
    )
    def test_a_bad_value_names_the_field_the_value_and_the_rule(
        self, overrides: dict[str, Any], message: str
    ) -> None:
        assert message in refusal(overrides=overrides).message

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("ohem.ration=0.5", "unknown key ohem.ration; did you mean ohem.ratio?"),
            ("training.batchsize=3", "unknown key training.batchsize; did you mean "),
            ("ohm.ratio=0.5", "unknown section [ohm]; did you mean ohem?"),
            ("qqqqq.zzz=0.5", "unknown section [qqqqq]; there are data, tokenizer, model, "),
            ("ohem.a.b=0.5", "unknown key ohem.a.b"),
            ("ratio=0.5", "'ratio' names no key"),
            ("ohem.ratio", "'ohem.ratio' has no '='"),
            ("ohem.ratio=", "ohem.ratio = ''"),
        ],
    )
    def test_a_bad_set_is_refused_with_a_hint(self, assignment: str, message: str) -> None:
        assert message in refusal(assignments=[assignment]).message

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[ohem]\nratoi = 0.5", "unknown key ohem.ratoi; did you mean ohem.ratio?"),
            ("[trainig]\nseed = 1", "unknown section [trainig]; did you mean training?"),
            ("[ohem]\nratio = 2", "ohem.ratio = 2: "),
            ("ohem = 0.5", "[ohem] is 0.5, not a table of keys"),
            ("extends = 'ohem'\nohem = 0.5", "[ohem] is 0.5, not a table of keys"),
            ("[ohem", "is not TOML"),
        ],
    )
    def test_a_bad_recipe_is_refused_with_a_hint(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        recipe = write(tmp_path / "r.toml", text)
        assert message in refusal(recipe=recipe).message
        assert message in refusal(recipe=recipe, overrides={"ohem.scope": "batch"}).message

    def test_a_missing_recipe_is_refused(self, tmp_path: Path) -> None:
        assert "did you mean baseline?" in refusal(recipe="basline").message
        assert "cannot read the recipe" in refusal(recipe=str(tmp_path / "no.toml")).message
        (tmp_path / "r.toml").write_bytes(b"\xff")
        assert "cannot read the recipe" in refusal(recipe=str(tmp_path / "r.toml")).message


class TestTokens:
    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("250000", 250_000),
            ("1_000_000", 1_000_000),
            ("250k", 250_000),
            ("4M", 4_000_000),
            ("4m", 4_000_000),
            ("12.8M", 12_800_000),
            ("4.1M", 4_100_000),  # 4.1 · 10⁶ is 4099999.9999999995
            ("1.5b", 1_500_000_000),
            ("20x", 40_000),
            ("192x", 384_000),
            ("0.5x", 1_000),
            (" 4M ", 4_000_000),
            ("1epoch", 500),
            ("2.5epochs", 1_250),
            ("1e6", 1_000_000),
            ("1E+3k", 1_000_000),
            ("1000000.0", 1_000_000),  # what `--set training.tokens=1e6` becomes
            ("1G", 1_000_000_000),
            ("0.0005m", 500),
            ("12_800_000", 12_800_000),
        ],
    )
    def test_a_budget_text_gives_its_number_of_tokens(self, text: str, tokens: int) -> None:
        assert parse_tokens(text, num_parameters=2_000, num_tokens=500) == tokens

    @pytest.mark.parametrize(
        "text", ["", "0", "0M", "-4M", "4T", "M", "4 M", "1e-6", "x20", "4MM", "nan", "inf", ".5M"]
    )
    def test_a_text_that_is_no_budget_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match="is not a number of tokens"):
            parse_tokens(text, num_parameters=2_000, num_tokens=500)

    @pytest.mark.parametrize("text", ["1.5", "0.5", "1.0005k", "0.0000001m", "2.5e0"])
    def test_a_fraction_of_a_token_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match="is no whole number of tokens"):
            parse_tokens(text, num_parameters=2_000, num_tokens=500)

    @pytest.mark.parametrize("text", ["1e16", "1e400", "2000000000000000", "2e6b", "9" * 500])
    def test_a_budget_beyond_the_limit_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match="is too large"):
            parse_tokens(text, num_parameters=2_000, num_tokens=500)


class TestFrozen:
    @pytest.mark.parametrize("section", RunConfig.model_fields)
    def test_no_field_of_a_config_can_be_assigned(self, section: str) -> None:
        config = RunConfig()
        part = getattr(config, section)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, section, part)
        for key in type(part).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(part, key, getattr(part, key))

    def test_keys_that_a_resumed_run_may_change_exist(self) -> None:
        for name in RESUME_MAY_CHANGE:
            section, key = name.split(".")
            assert key in type(getattr(RunConfig(), section)).model_fields

    def test_a_dumped_config_validates_to_itself(self) -> None:
        config = load_config("quickstart", {"training.steps": 3})
        assert validate_config(config.model_dump()) == config


class TestBias:
    @pytest.mark.parametrize(
        ("schedule", "ratio", "biases"),
        [
            ("constant", 0.5, True),
            ("constant", 0.89, True),
            ("constant", 0.9, False),
            ("constant", 1.0, False),
            ("anneal", 0.5, True),
            ("anneal-quarter", 1.0, True),
            ("recover", 0.1, False),
            ("0:1,1:0.5", 1.0, True),
            ("0:0.5,1:1", 1.0, False),
        ],
    )
    def test_topk_below_09_at_the_end_biases_it(
        self, schedule: str, ratio: float, biases: bool
    ) -> None:
        config = load_config(overrides={"ohem.schedule": schedule, "ohem.ratio": ratio})
        assert config.ohem.biases_the_end is biases

    @given(st.sampled_from(NAMED_SCHEDULES), st.floats(0.01, 1))
    def test_random_never_biases_the_end(self, schedule: str, ratio: float) -> None:
        overrides = {"ohem.schedule": schedule, "ohem.ratio": ratio, "ohem.select": "random"}
        assert not load_config(overrides=overrides).ohem.biases_the_end


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"preset": "260k"}, 16e-3),
        ({"preset": "0.5m"}, 16e-3),  # width 80, the rate of the README's table
        ({}, 5.7e-3),  # `2m`, width 160: 16e-3 / 2**1.5
        ({"preset": "0.5m", "hidden_size": 320, "num_heads": 4}, 2e-3),  # 16e-3 / 4**1.5
    ],
)
def test_the_learning_rate_suits_the_width_unless_chosen(model: dict, expected: float) -> None:
    assert validate_config({"model": model}).optim.peak_lr == pytest.approx(expected)
    chosen = validate_config({"model": model, "optim": {"lr": 3e-3}})
    assert chosen.optim.peak_lr == 3e-3
