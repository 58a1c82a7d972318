"""The loss for loops of one's own, against cross entropy, autograd, a naive mask, the Trainer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_step import LENGTH, ROWS, SELECTS, VOCAB, losses, miner, model, references, tokens
from torch import Tensor
from torch.nn import functional as F

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.models.causal_lm import head_weight, trunk
from tinyohem.ohem import OhemLoss, trainer_loss
from tinyohem.ohem.losses import token_losses
from tinyohem.ohem.scores import read_tokens
from tinyohem.ohem.step_tokens import Draw, StepTokens

Form = Callable[[Any, Tensor], tuple[Tensor, Tensor | None]]


def as_hidden(built: Any, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
    hidden = trunk(built)(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden, head_weight(built)


def as_logits(built: Any, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
    return built(input_ids=input_ids, use_cache=False).logits, None


forms = pytest.mark.parametrize("form", [as_hidden, as_logits])


def gradients(loss: Tensor, built: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(built.parameters()), retain_graph=True))


def assert_same(found: Tensor, expected: Tensor, built: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(gradients(found, built), gradients(expected, built), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def call(ohem: OhemLoss, form: Form, built: Any, ratio: float, **options: Any) -> Tensor:
    input_ids, labels = tokens()
    states, head = form(built, input_ids)
    return ohem(states, labels, head, keep_ratio=ratio, **options)


@forms
def test_at_ratio_1_it_is_cross_entropy(form: Form) -> None:
    built, (input_ids, labels) = model(), tokens()
    logits = built(input_ids=input_ids).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    ohem = OhemLoss()
    found = call(ohem, form, built, 1.0)
    assert_same(found, expected, built)
    assert ohem.full_loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert ohem.kept_share == 1


@forms
def test_topk_equals_a_mask_on_the_loss(form: Form) -> None:
    built, (input_ids, labels) = model(), tokens()
    every = losses(built, input_ids, labels)
    valid = labels != IGNORE_INDEX
    count = -(-int(valid.sum()) // 2)
    hardest = every.masked_fill(~valid, -1).flatten().topk(count).indices
    mask = torch.zeros(ROWS * LENGTH, dtype=torch.bool).index_fill(0, hardest, True)
    expected = every.flatten()[mask].mean()
    ohem = OhemLoss()
    found = call(ohem, form, built, 0.5)
    assert_same(found, expected, built)
    assert ohem.full_loss.item() == pytest.approx(every.sum().item() / int(valid.sum()))
    assert ohem.kept_share.item() == pytest.approx(count / int(valid.sum()))


@forms
@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("weight", ["none", "focal", "ghm", "class_balanced"])
def test_every_method_gives_the_gradient_of_the_training_step(
    form: Form, select: str, weight: str
) -> None:
    """Against weights from `TokenMiner` and a loss from autograd."""
    options = {"select": select, "weight": weight, **SELECTS[select], "class_power": 0.5}
    built, (input_ids, labels) = model(), tokens()
    states, head = form(built, input_ids)
    way, shares = miner(**options), {"topk": 0.3, "random": 0.3, "pool": 0.4}
    loss, score = read_tokens(way.config.score, states, head, labels)
    rng = torch.Generator().manual_seed(2)
    read = StepTokens(labels, input_ids, loss, score, references())
    kept = way.token_weights(read, Draw(0.4, rng, shares))
    valid = labels != IGNORE_INDEX
    every = losses(built, input_ids, labels)
    focal = (1 - torch.exp(-every)) if weight == "focal" else 1
    over = valid if way.config.denominator == "all" else kept
    expected = (kept * focal * every).sum() / over.sum()

    ohem = OhemLoss(class_counts=torch.arange(VOCAB, 0, -1) ** 3, **options)
    found = ohem(
        states,
        labels,
        head,
        keep_ratio=0.4,
        shares=shares,
        reference_BT=references(),
        generator=torch.Generator().manual_seed(2),
    )
    assert_same(found, expected, built)


def test_gradnorm_without_a_head_is_the_norm_in_the_logits() -> None:
    built, (input_ids, labels) = model(), tokens()
    logits = built(input_ids=input_ids).logits.detach().requires_grad_()
    _, score = read_tokens("gradnorm", logits, None, labels)
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), logits
    )
    valid = labels != IGNORE_INDEX
    torch.testing.assert_close(score[valid], gradient.norm(dim=2)[valid])


@forms
def test_eval_mode_returns_the_mean_loss_of_all_tokens(form: Form) -> None:
    built, (input_ids, labels) = model(), tokens()
    expected = losses(built, input_ids, labels).sum() / (labels != IGNORE_INDEX).sum()
    ohem = OhemLoss(weight="focal")
    with torch.no_grad():
        assert call(ohem, form, built, 0.5).item() == pytest.approx(expected.item(), rel=1e-6)
    assert call(ohem.eval(), form, built, 0.5).item() == pytest.approx(expected.item(), rel=1e-6)


def test_micro_batches_add_up_to_the_batch() -> None:
    built, (input_ids, labels) = model(), tokens()
    states, head = as_hidden(built, input_ids)
    whole = OhemLoss()(states, labels, head, keep_ratio=1.0)
    count = (labels != IGNORE_INDEX).sum()
    parts = [
        OhemLoss()(states[at], labels[at], head, keep_ratio=1.0, num_items=count)
        for at in (slice(0, 1), slice(1, ROWS))
    ]
    assert_same(torch.stack(parts).sum(), whole, built)


def test_half_precision_differs_by_rounding_only() -> None:
    """A model in bfloat16, whose head and states are multiplied in bfloat16."""
    built, (input_ids, labels) = model(), tokens()
    states, head = (x.detach().requires_grad_() for x in as_hidden(built, input_ids))
    exact = torch.autograd.grad(OhemLoss()(states, labels, head, keep_ratio=1.0), (states, head))
    low = [x.detach().bfloat16().requires_grad_() for x in (states, head)]
    loss = OhemLoss()(low[0], labels, low[1], keep_ratio=1.0)
    assert loss.dtype == torch.float32
    for mine, theirs in zip(torch.autograd.grad(loss, low), exact, strict=True):
        assert mine.dtype == torch.bfloat16
        scale = theirs.abs().max().item()
        torch.testing.assert_close(mine.double(), theirs, rtol=0.03, atol=0.01 * scale)


def test_the_state_dict_holds_the_state_of_mining(tmp_path: Path) -> None:
    states, labels = torch.randn(2, 5, VOCAB), torch.randint(0, VOCAB, (2, 5))
    first, second = OhemLoss(weight="ghm"), OhemLoss(weight="ghm")
    first(states.requires_grad_(), labels, keep_ratio=1.0)
    torch.save(first.state_dict(), tmp_path / "ohem.pt")
    second.load_state_dict(torch.load(tmp_path / "ohem.pt", weights_only=True))
    again = [loss(3 * states, labels, keep_ratio=1.0).item() for loss in (first, second)]
    assert again[0] == again[1]
    assert again[0] != OhemLoss(weight="ghm")(3 * states, labels, keep_ratio=1.0).item()


def test_the_queue_takes_batches_of_any_size() -> None:
    ohem, seen = OhemLoss(select="threshold", queue_steps=2), []
    for length in (4, 6, 3):
        labels = torch.zeros(1, length, dtype=torch.long)
        logits = torch.randn(1, length, VOCAB, generator=torch.Generator().manual_seed(length))
        ohem(logits.requires_grad_(), labels, keep_ratio=0.5)
        every = -logits[0].log_softmax(dim=1)[:, 0].detach().numpy()
        limit = np.quantile(np.concatenate(seen or [every]), 0.5)
        kept = max(1, (every > limit).sum())  # the least that `min_kept` allows
        assert ohem.kept_share.item() == pytest.approx(kept / length)
        seen.append(every)


def test_without_a_label_the_loss_is_zero() -> None:
    states = torch.randn(1, 4, VOCAB, requires_grad=True)
    for ratio in (0.5, 1.0):
        loss = OhemLoss()(states, torch.full((1, 4), IGNORE_INDEX), keep_ratio=ratio)
        loss.backward()
        assert loss == 0
    assert not states.grad.any()


def test_a_nan_always_shows_in_the_loss() -> None:
    states = torch.zeros(1, 4, VOCAB)
    states[0, 2] = torch.nan
    ohem = OhemLoss(select="importance")
    for seed in range(5):
        loss = ohem(
            states.requires_grad_(),
            torch.ones(1, 4, dtype=torch.long),
            keep_ratio=0.25,
            generator=torch.Generator().manual_seed(seed),
        )
        assert loss.isnan()


def test_a_custom_loop_learns() -> None:
    """The loop that docs/mining.md shows."""
    built, (input_ids, labels) = model().float(), tokens()
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    ohem, num_steps, seen = OhemLoss(ratio=0.5), 30, []
    schedule = ohem.config.keep_schedule()
    for step in range(num_steps):
        states, head = as_hidden(built, input_ids)
        ratio = schedule.keep_ratio((step + 0.5) / num_steps)
        ohem(states, labels, head, keep_ratio=ratio).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((ohem.full_loss.item(), ohem.kept_share.item()))
    assert seen[-1][0] < 0.6 * seen[0][0]
    assert (seen[0][1], seen[-1][1]) == (1, 1)
    assert min(share for _, share in seen) == pytest.approx(0.5, abs=0.05)


class TestTrainer:
    """The Trainer on 24 sequences, some of their labels ignored."""

    def stories(self) -> list[dict[str, Tensor]]:
        rng = torch.Generator().manual_seed(7)
        ids = torch.randint(0, VOCAB, (24, LENGTH), generator=rng)
        labels = ids.clone()
        labels[::3, :3] = IGNORE_INDEX
        return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]

    def trainer(
        self, tmp_path: Path, built: Any, loss: Any = None, accumulation: int = 1, **options: Any
    ) -> Any:
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=6,
            learning_rate=1e-2,
            max_grad_norm=0.0,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **options,
        )
        stories = self.stories()
        return Trainer(
            model=built,
            args=arguments,
            train_dataset=stories,
            eval_dataset=stories,
            compute_loss_func=loss,
        )

    def trained(self, tmp_path: Path, ohem: OhemLoss | None, accumulation: int = 1) -> Tensor:
        built: Any = copy.deepcopy(model()).float()
        box: list[Any] = []
        loss = None if ohem is None else trainer_loss(ohem, lambda: box[0])
        box.append(self.trainer(tmp_path, built, loss, accumulation))
        box[0].train()
        return torch.cat([p.detach().flatten() for p in built.parameters()])

    def test_at_ratio_1_the_trainer_trains_plainly(self, tmp_path: Path) -> None:
        """In whole batches, and in micro-batches with unequal numbers of labels."""
        expected = self.trained(tmp_path, None)
        for accumulation in (1, 4):
            found = self.trained(tmp_path, OhemLoss(ratio=1.0), accumulation)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_the_ratio_follows_the_schedule_except_in_evaluation(self, tmp_path: Path) -> None:
        built: Any = copy.deepcopy(model()).float()
        ohem, box, seen = OhemLoss(ratio=0.25), [], []
        mined = trainer_loss(ohem, lambda: box[0])

        def watched(*inputs: Any, **options: Any) -> Tensor:
            loss = mined(*inputs, **options)
            if torch.is_grad_enabled():
                seen.append(ohem.kept_share.item())
            return loss

        trainer = self.trainer(tmp_path, built, watched, per_device_eval_batch_size=24)
        box.append(trainer)
        trainer.train()
        schedule = ohem.config.keep_schedule()
        expected = [schedule.keep_ratio((step + 0.5) / 6) for step in range(6)]
        assert seen == pytest.approx(expected, abs=0.03)
        stories = self.stories()
        ids, labels = (torch.stack([s[k] for s in stories]) for k in ("input_ids", "labels"))
        every = built(input_ids=ids, labels=labels).loss.item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(every, rel=1e-5)

    @pytest.mark.parametrize(
        "options", [{"score": "excess_loss", "ratio": 0.5}, {"dedup": "bigram"}]
    )
    def test_methods_that_need_more_than_logits_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="the Trainer hands over logits and labels"):
            trainer_loss(OhemLoss(**options), lambda: None)


def test_logits_are_not_overwritten() -> None:
    built, (input_ids, labels) = model(), tokens()
    logits = built(input_ids=input_ids).logits
    before = logits.detach().clone()
    OhemLoss()(logits, labels, keep_ratio=0.5)
    token_losses(logits, None, labels)
    assert torch.equal(logits.detach(), before)


def test_constant_shares_of_mixed_come_from_the_config() -> None:
    found = call(OhemLoss(select="mixed", mix="topk=1"), as_logits, built := model(), 0.5)
    assert_same(found, call(OhemLoss(select="topk"), as_logits, built, 0.5), built)
    with pytest.raises(ValueError, match="needs the shares"):
        call(OhemLoss(select="mixed", mix="0:random=1;1:topk=1"), as_logits, built, 0.5)
