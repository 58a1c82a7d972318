"""Tokens that attend to their own story: against every story's part of a window run by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import (
    LAYOUTS,
    LENGTH,
    ROWS,
    VOCAB,
    apart,
    assert_same,
    gradients,
    llama,
    places,
    random_weights,
    token_losses,
)
from torch import Tensor

from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM, Trunk, trunk
from tinyohem.models.kept_attention import KeptTokens, story_mask
from tinyohem.models.trunk_passes import BackwardPlan, TrunkPasses, run_all, run_kept

START = 0


def windows(begins: list[bool], rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Return inputs and labels, (rows, LENGTH), with the start token where `begins` is true."""
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCAB, (rows, LENGTH + 1), generator=rng)
    marked = torch.tensor(begins).view(rows, LENGTH)
    ids[:, :-1][marked] = START
    return ids[:, :-1], ids[:, 1:]


def some_begin(seed: int = 0) -> list[bool]:
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(ROWS * LENGTH, generator=rng) < 0.2).tolist()


@settings(deadline=None, max_examples=25)
@given(begins=st.lists(st.booleans(), min_size=ROWS * LENGTH, max_size=ROWS * LENGTH))
def test_a_token_sees_its_own_story_alone(begins: list[bool]) -> None:
    model, (input_ids, _) = llama().double(), windows(begins)
    found, _ = run_all(Trunk.of(trunk(model), story_start=START), input_ids, "full")
    torch.testing.assert_close(found, apart(model, input_ids, START), rtol=0, atol=1e-5)


def test_without_a_start_token_in_the_config_it_sees_the_whole_window() -> None:
    model, (input_ids, _) = llama().double(), windows(some_begin())
    found, _ = run_all(Trunk.of(trunk(model)), input_ids, "full")
    whole = trunk(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)
    assert (found - apart(model, input_ids, START)).abs().max() > 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("plan", ["last_layer", "pruned"])
def test_kept_tokens_see_their_own_story_alone(plan: BackwardPlan, layout: str) -> None:
    model, (input_ids, labels) = llama(), windows(some_begin())
    weight = random_weights(24, layout)
    kept_BT = weight > 0
    whole = Trunk.of(trunk(model), story_start=START)
    _, cache = run_all(whole, input_ids, plan)
    assert cache is not None
    even = places(kept_BT, layout)
    kept = KeptTokens.at(
        even.places_K,
        (ROWS, LENGTH),
        24 // ROWS if layout == "even" else None,
        whole.stories(input_ids),
        spread=layout == "spread",
    )
    hidden_KD = run_kept(whole, input_ids, cache, kept)
    expected_BTD = apart(model, input_ids, START)
    torch.testing.assert_close(hidden_KD, expected_BTD[kept_BT], rtol=1e-4, atol=1e-4)
    if plan == "last_layer":  # exact, so its gradients are too
        (token_losses(model, hidden_KD, labels[kept_BT]) * weight[kept_BT]).sum().backward()
        found = gradients(model)
        (token_losses(model, expected_BTD, labels) * weight.flatten()).sum().backward()
        assert_same(found, gradients(model))


@pytest.mark.parametrize("plan", ["full", "last_layer", "pruned"])
def test_the_passes_of_a_step_keep_stories_apart(plan: BackwardPlan) -> None:
    model, (input_ids, labels) = llama(), windows(some_begin())
    lm = CausalLM.of(model, story_start=START)
    kept_BT = random_weights(24) > 0
    passes = TrunkPasses(plan, lm, [Batch(input_ids, labels, labels.numel())])
    passes.run_first()
    expected_BTD = apart(model, input_ids, START)
    torch.testing.assert_close(passes.read(0), expected_BTD, rtol=1e-4, atol=1e-4)
    hidden_KD = passes.kept(0, kept_BT.flatten().nonzero()[:, 0])
    torch.testing.assert_close(hidden_KD, expected_BTD[kept_BT], rtol=1e-4, atol=1e-4)


def test_the_mask_by_hand() -> None:
    x, o = True, False
    stories = torch.tensor([[0, 0, 1, 1]])
    assert story_mask(stories).tolist() == [
        [[x, o, o, o], [x, x, o, o], [o, o, x, o], [o, o, x, x]]
    ]
