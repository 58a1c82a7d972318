"""Means over a stretch of steps, and the first step that broke."""

import math
from dataclasses import replace

import pytest
import torch

from tinyohem.training.meter import Meter
from tinyohem.training.step import StepStats

CPU = torch.device("cpu")
KEYS = ("train/loss", "train/loss_selected", "train/loss_threshold", "train/grad_norm")


def stats(
    loss: float, selected: float, threshold: float, num_kept: int, *, finite: bool = True
) -> StepStats:
    return StepStats(
        loss=torch.tensor(loss),
        loss_selected=torch.tensor(selected),
        smallest_kept_loss=torch.tensor(threshold),
        kept_loss_share=torch.tensor(selected / 10),
        kept_by_bucket=torch.tensor([0.5, 0.25, 0.25, 0.0]),
        effective_sample_size=torch.tensor(threshold / 10),
        finite=torch.tensor(finite),
        num_kept=num_kept,
    )


def test_means_ratio_and_speed_of_a_stretch() -> None:
    meter = Meter(CPU, seconds=10.0)
    meter.add(0, stats(4.0, 6.0, 3.0, num_kept=50), torch.tensor(1.0))
    meter.add(1, stats(2.0, 5.0, 2.0, num_kept=25), torch.tensor(0.5))
    assert meter.flush(tokens_per_step=100, seconds=14.0) == pytest.approx(
        {
            "train/loss": 3.0,
            "train/loss_selected": 5.5,
            "train/loss_threshold": 2.5,
            "train/grad_norm": 0.75,
            "train/kept_loss_share": 0.55,
            "train/effective_sample_size": 0.25,
            "train/kept_below_1": 0.5,
            "train/kept_1_to_3": 0.25,
            "train/kept_3_to_5": 0.25,
            "train/kept_above_5": 0.0,
            "train/keep_ratio": 0.375,
            "train/tokens_per_second": 50.0,
        }
    )


def test_a_flush_begins_a_new_stretch() -> None:
    meter = Meter(CPU, seconds=0.0)
    meter.add(0, stats(9.0, 9.0, 9.0, num_kept=10), torch.tensor(9.0))
    meter.flush(tokens_per_step=10, seconds=1.0)
    meter.add(1, stats(1.0, 2.0, 3.0, num_kept=5), torch.tensor(4.0))
    figures = meter.flush(tokens_per_step=10, seconds=1.5)
    assert [figures[key] for key in KEYS] == [1.0, 2.0, 3.0, 4.0]
    assert figures["train/keep_ratio"] == 0.5
    assert figures["train/tokens_per_second"] == 20.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "grad_norm"])
def test_the_first_step_that_is_not_finite_is_remembered(broken: float, where: str) -> None:
    meter = Meter(CPU, seconds=0.0)
    meter.add(7, stats(1.0, 1.0, 1.0, num_kept=1), torch.tensor(1.0))
    assert meter.first_bad_step() is None
    for step in (8, 9):
        loss, norm = (broken, 1.0) if where == "loss" else (1.0, broken)
        meter.add(step, stats(loss, 1.0, 1.0, num_kept=1), torch.tensor(norm))
    meter.add(10, stats(1.0, 1.0, 1.0, num_kept=1), torch.tensor(1.0))
    assert meter.first_bad_step() == 8


def test_step_zero_can_be_the_bad_one() -> None:
    meter = Meter(CPU, seconds=0.0)
    meter.add(0, stats(math.nan, 1.0, 1.0, num_kept=1), torch.tensor(1.0))
    assert meter.first_bad_step() == 0


@pytest.mark.parametrize(
    "name", ["loss_selected", "smallest_kept_loss", "kept_loss_share", "effective_sample_size"]
)
def test_any_figure_that_is_not_finite_makes_a_bad_step(name: str) -> None:
    meter, good = Meter(CPU, seconds=0.0), stats(1.0, 1.0, 1.0, num_kept=1)
    meter.add(3, replace(good, **{name: torch.tensor(math.nan)}), torch.tensor(1.0))
    assert meter.first_bad_step() == 3


def test_a_score_that_is_not_finite_makes_a_bad_step_too() -> None:
    meter = Meter(CPU, seconds=0.0)
    for step, finite in enumerate([True, True, False, True, False]):
        meter.add(step, stats(1.0, 1.0, 1.0, num_kept=1, finite=finite), torch.tensor(1.0))
    assert meter.first_bad_step() == 2


def test_a_flush_does_not_forget_a_bad_step() -> None:
    meter = Meter(CPU, seconds=0.0)
    meter.add(0, stats(1.0, 1.0, 1.0, num_kept=1, finite=False), torch.tensor(1.0))
    meter.flush(tokens_per_step=10, seconds=1.0)
    meter.add(1, stats(1.0, 1.0, 1.0, num_kept=1), torch.tensor(1.0))
    assert meter.first_bad_step() == 0
