"""[ohem]: defaults that follow from the method, and combinations that are refused."""

from pathlib import Path
from typing import Any

import pytest

from tinyohem.config.ohem import OhemConfig
from tinyohem.config.recipes import load_config
from tinyohem.config.run import has_biased_mean, validate_config
from tinyohem.errors import InputError


def ohem(**given: Any) -> OhemConfig:
    return load_config(overrides={f"ohem.{key}": value for key, value in given.items()}).ohem


@pytest.mark.parametrize(
    ("given", "select", "score", "denominator"),
    [
        ({}, "topk", "loss", "kept"),
        ({"ratio": 0.5}, "topk", "loss", "kept"),
        ({"select": "random"}, "random", "loss", "kept"),
        ({"select": "band"}, "band", "loss", "kept"),
        ({"select": "mixed"}, "mixed", "loss", "kept"),
        ({"select": "importance"}, "importance", "gradnorm", "all"),
        ({"select": "importance", "score": "entropy"}, "importance", "entropy", "all"),
        ({"select": "importance", "denominator": "kept"}, "importance", "gradnorm", "kept"),
        ({"select": "stratified"}, "stratified", "loss", "all"),
        ({"schedule": "adaptive", "ratio": 0.3}, "importance", "gradnorm", "all"),
        ({"weight": "ghm"}, "topk", "loss", "all"),
        ({"weight": "focal"}, "topk", "loss", "kept"),
        ({"weight": "class_balanced", "select": "stratified"}, "stratified", "loss", "all"),
        ({"weight": "ghm", "denominator": "kept"}, "topk", "loss", "kept"),
    ],
)
def test_defaults_follow_the_method(
    given: dict[str, Any], select: str, score: str, denominator: str
) -> None:
    found = ohem(**given)
    assert (found.select, found.score, found.denominator) == (select, score, denominator)
    # What is dumped into a run's folder gives the same again, whatever followed from what.
    assert OhemConfig.model_validate(found.model_dump()) == found


LIMITS = "select threshold goes with loss_threshold, prob_threshold or queue_steps"


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({}, []),
        ({"weight": "focal"}, []),
        ({"ratio": 0.5, "select": "band", "score": "entropy"}, []),
        ({"schedule": "anneal-quarter"}, []),
        ({"schedule": "0:1,0.5:0.5,1:1", "select": "random"}, []),
        ({"select": "importance", "weight": "class_balanced"}, []),
        ({"select": "importance"}, ["select"]),
        ({"ratio": 0.5, "schedule": "0:1,1:1"}, ["schedule"]),
        ({"select": "band", "score": "entropy"}, ["select", "score"]),
        ({"schedule": "anneal", "backward": "pruned"}, ["backward", "schedule"]),
        ({"scope": "sequence"}, ["scope"]),
    ],
)
def test_idle_keys_are_those_without_effect_when_all_tokens_are_kept(
    given: dict[str, Any], idle: list[str]
) -> None:
    assert ohem(**given).idle_keys == idle


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"select": "threshold"}, LIMITS),
        ({"loss_threshold": 2.0}, LIMITS),
        ({"prob_threshold": 0.2, "select": "random"}, LIMITS),
        ({"queue_steps": 8, "select": "importance"}, LIMITS),
        (
            {"select": "threshold", "loss_threshold": 2.0, "queue_steps": 8},
            "queue_steps stands in place of loss_threshold and prob_threshold",
        ),
        (
            {"select": "threshold", "prob_threshold": 0.2, "score": "gradnorm"},
            "prob_threshold needs score = loss",
        ),
        (
            {"schedule": "adaptive", "ratio": 0.5, "select": "topk"},
            "schedule adaptive needs select = importance and score = gradnorm",
        ),
        (
            {"schedule": "adaptive", "ratio": 0.5, "score": "loss"},
            "schedule adaptive needs select = importance and score = gradnorm",
        ),
        ({"schedule": "adaptive"}, "schedule adaptive needs ratio < 1 (--ohem-ratio), the least"),
        (
            {"dedup": "bigram", "select": "random"},
            "dedup needs select = topk, threshold or band",
        ),
        (
            {"dedup": "position", "select": "importance"},
            "dedup needs select = topk, threshold or band",
        ),
        ({"mix": "topk=0.5,random=0.6"}, "mix 'topk=0.5,random=0.6': shares must not be"),
        ({"mix": "bottom=1"}, "mix 'bottom=1': 'bottom' is no source"),
    ],
)
def test_options_that_conflict_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ohem(**given)
    assert caught.value.message.startswith(f"[ohem]: {message}")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"full_step_every": 1}, "ohem.full_step_every = 1: "),
        ({"loss_threshold": 0}, "ohem.loss_threshold = 0: "),
        ({"prob_threshold": 1}, "ohem.prob_threshold = 1: "),
        ({"queue_steps": -1}, "ohem.queue_steps = -1: "),
        ({"noise_fraction": 1}, "ohem.noise_fraction = 1: "),
        ({"floor": 1.5}, "ohem.floor = 1.5: "),
        ({"variance": 0}, "ohem.variance = 0: "),
        ({"random_share": 0}, "ohem.random_share = 0: "),
        ({"random_share": 1}, "ohem.random_share = 1: "),
        ({"gamma": 0}, "ohem.gamma = 0: "),
        ({"ghm_bins": 0}, "ohem.ghm_bins = 0: "),
        ({"ghm_momentum": 1}, "ohem.ghm_momentum = 1: "),
        ({"class_power": 1.1}, "ohem.class_power = 1.1: "),
        ({"dedup_window": 0}, "ohem.dedup_window = 0: "),
        ({"dedup_max": 0}, "ohem.dedup_max = 0: "),
        ({"ema_horizon": 0}, "ohem.ema_horizon = 0: "),
        ({"ema_horizon": 1}, "ohem.ema_horizon = 1: "),
        ({"score": "surprise"}, "ohem.score = 'surprise': Input should be 'loss', "),
        ({"weight": "soft"}, "ohem.weight = 'soft': Input should be 'none', "),
    ],
)
def test_a_value_out_of_range_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ohem(**given)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("given", "needs_reference"),
    [
        ({"score": "excess_loss", "ratio": 0.5}, True),
        ({"score": "excess_loss", "schedule": "anneal-quarter"}, True),
        ({"score": "lag", "ratio": 0.5}, True),
        ({"score": "excess_loss"}, False),  # at ratio 1 nothing is ranked
        ({"score": "loss", "ratio": 0.5}, False),
    ],
)
def test_needs_reference_is_true_only_if_a_step_reads_a_reference(
    given: dict[str, Any], needs_reference: bool
) -> None:
    assert ohem(**given).needs_reference is needs_reference
    assert ohem(**given).averages_model is needs_reference
    assert not ohem(**given, reference="pool").averages_model


@pytest.mark.parametrize(
    ("share", "num_steps", "steps"), [(0.05, 1000, 50), (0.5, 7, 4), (0.05, 20, 2), (0.05, 1, 2)]
)
def test_the_horizon_is_a_share_of_the_steps_and_at_least_two(
    share: float, num_steps: int, steps: int
) -> None:
    assert ohem(ema_horizon=share).horizon_steps(num_steps) == steps


def test_a_running_mean_needs_a_known_number_of_steps() -> None:
    given = {"ohem.score": "lag", "ohem.ratio": 0.5}
    with pytest.raises(InputError, match="spans a share of the steps: it needs a budget in tokens"):
        load_config(overrides={**given, "training.seconds": 60})
    for fine in ({"training.minutes": 1}, {"training.seconds": 60, "ohem.reference": "pool"}):
        load_config(overrides={**given, **fine})


class TestFormerDecay:
    """`ema_decay` made a mean that leant on its first step; older records still have it."""

    def test_a_user_is_told_the_new_key(self, tmp_path: Path) -> None:
        (recipe := tmp_path / "old.toml").write_text("[ohem]\nema_decay = 0.999\n")
        for given in (
            {"recipe": str(recipe)},
            {"assignments": ["ohem.ema_decay=0.999"]},
            {"overrides": {"ohem.ema_decay": 0.999}},
        ):
            with pytest.raises(InputError) as caught:
                load_config(**given)
            assert caught.value.message == (
                "unknown key ohem.ema_decay; did you mean ohem.ema_horizon (a share of all steps)?"
            )

    @pytest.mark.parametrize(
        ("given", "biased"),
        [
            ({"ratio": 0.5, "score": "excess_loss"}, True),
            ({"ratio": 0.5, "score": "excess_loss", "reference": "pool"}, False),
            ({"ratio": 0.5}, False),
            ({"score": "excess_loss"}, False),
        ],
    )
    def test_records_with_it_are_read_and_a_biased_mean_is_known(
        self, given: dict[str, Any], biased: bool
    ) -> None:
        record = {"ohem": {**given, "ema_decay": 0.999}}
        config = validate_config(record)
        assert config == validate_config({"ohem": given})
        assert has_biased_mean(record, config) is biased
        assert not has_biased_mean(config.model_dump(), config)


@pytest.mark.parametrize(
    ("given", "biases"),
    [
        ({"select": "band"}, True),
        ({"select": "mixed"}, True),
        ({"select": "threshold", "loss_threshold": 1.0}, True),
        ({"score": "gradnorm"}, True),
        ({"score": "entropy"}, False),
        ({"select": "importance"}, False),
        ({"select": "stratified"}, False),
        ({"select": "band", "full_step_every": 2}, True),
    ],
)
def test_biases_the_end_depends_on_selection_and_score(given: dict[str, Any], biases: bool) -> None:
    assert ohem(ratio=0.5, schedule="constant", **given).biases_the_end is biases
    assert not ohem(ratio=0.5, schedule="recover", **given).biases_the_end


def test_under_adaptive_the_schedule_is_its_lower_bound() -> None:
    found = ohem(schedule="adaptive", ratio=0.3, full_step_every=4)
    schedule = found.keep_schedule()
    assert found.adaptive
    assert not found.biases_the_end
    assert [schedule.keep_ratio(step / 8, step) for step in range(8)] == [0.3, 0.3, 0.3, 1.0] * 2
