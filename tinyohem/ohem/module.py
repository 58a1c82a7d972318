"""Mining outside `tinyohem train`: a loss for any PyTorch loop, and for transformers' Trainer.

Shape suffixes: B sequences, T tokens of one, K kept tokens, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyohem.config.aliases import current_name, nearest
from tinyohem.config.ohem import OhemConfig
from tinyohem.config.sections import build
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.inputs import check_tensors, foreign_labels, refuse_labels
from tinyohem.ohem.losses import kept_loss, kept_places, token_losses
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.scores import read_tokens
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.ohem.token_weights import class_weights

# Only `tinyohem train` has the trunk and the data that these need.
_OF_OUR_LOOP = ("backward", "hard_window_share", "pool_refresh_every", "pool_max_age")
# Always shown: the main options, and those whose defaults follow others.
_SHOWN = ("ratio", "score", "select", "schedule", "denominator")


class OhemLoss(nn.Module):
    """Compute the weighted cross entropy of the selected tokens: Σ w·ℓ / Z, nats.

    Selection spans one call: with gradient accumulation a micro-batch, with several processes the
    batch of one process. In eval mode, and where no gradient is recorded, the loss is the mean
    cross entropy of all tokens whatever the options say.

    The state of GHM and of the queue of `threshold` is part of `state_dict()`.

    Args:
        class_counts: (V,) how often each token occurs in the training text; for `class_balanced`.
        options: keys of `OhemConfig`, such as `select="importance"`. `ratio` and `schedule` define
            `self.config.keep_schedule()`, which gives the keep ratio to pass to each call.

    Attributes:
        full_loss: mean cross entropy of all tokens in the last call, nats, without a graph.
        kept_share: share of the tokens that the last call kept.

    Raises:
        ValueError: an option is unknown, contradicts another, or works only in `tinyohem train`.
    """

    full_loss: Tensor
    kept_share: Tensor

    def __init__(self, *, class_counts: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.config = _configured(options)
        defaults = OhemConfig()
        for key in _OF_OUR_LOOP:
            if getattr(self.config, key) != getattr(defaults, key):
                raise ValueError(f"{key} works in `tinyohem train` alone")
        weight_V = None
        if self.config.weight == "class_balanced":
            weight_V = class_weights(_checked_counts(class_counts), self.config.class_power)
        self.miner = TokenMiner(self.config, weight_V)

    def extra_repr(self) -> str:
        """Return the options that build an equal `OhemLoss(…)`."""
        defaults = OhemConfig()
        return ", ".join(
            f"{key}={value!r}"
            for key, value in self.config
            if key in _SHOWN or value != getattr(defaults, key)
        )

    def forward(
        self,
        states_BTD: Tensor,
        labels_BT: Tensor,
        head_VD: Tensor | None = None,
        *,
        keep_ratio: float,
        shares: Mapping[str, float] | None = None,
        reference_BT: Tensor | None = None,
        input_ids_BT: Tensor | None = None,
        num_items: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss (scalar, nats) with its graph.

        Args:
            states_BTD: with a head, (B, T, D) hidden states, whose logits are never stored for all
                tokens at once; without one, (B, T, V) logits. float32 or bfloat16.
            labels_BT: int64 (B, T), the token that each state predicts; `-100` is ignored.
            head_VD: (V, D) output embedding.
            keep_ratio: share of the tokens to keep, in (0, 1]; at 1.0 plain cross entropy.
            shares: the share of each source of `mixed`, where `mix` changes them over training.
            reference_BT: another model's losses, nats; for `excess_loss`, `lag` and the source
                `pool`.
            input_ids_BT: (B, T); for `dedup = "bigram"`.
            num_items: valid tokens of the whole optimizer step, where this is one of several
                micro-batches: each is then weighted by its share of them.
            generator: source of random selection, on the device of the states.

        Raises:
            ValueError: kinds, shapes, types or devices do not match, a label is neither a token nor
                -100, the ratio is outside (0, 1], or a method lacks an argument that it needs.
        """
        beside_BT = {"reference_BT": reference_BT, "input_ids_BT": input_ids_BT}
        vocab_size = check_tensors(states_BTD, labels_BT, head_VD, beside_BT)
        self._check(vocab_size, keep_ratio)
        # Looking for foreign labels makes the host wait for the device, but on a GPU an unseen one
        # ends the process. So they are ignored at first, and reported where the step waits anyway.
        foreign_BT, given_BT = foreign_labels(labels_BT, vocab_size), labels_BT
        labels_BT = labels_BT.masked_fill(foreign_BT, IGNORE_INDEX)
        num_valid = (labels_BT != IGNORE_INDEX).sum().clamp(min=1)
        part = 1.0 if num_items is None else num_valid / torch.as_tensor(num_items).clamp(min=1)
        if not (self.training and torch.is_grad_enabled()):
            if foreign_BT.any():  # outside training an extra wait does not matter
                refuse_labels(given_BT, vocab_size)
            return part * token_losses(states_BTD, head_VD, labels_BT).sum() / num_valid

        self._move_to(labels_BT.device)
        tokens = StepTokens(labels_BT, input_ids_BT, reference_BT=reference_BT)
        if self.config.reads_first(keep_ratio):
            tokens = self._read(tokens, states_BTD, head_VD, keep_ratio)
        draw = Draw(keep_ratio, generator, shares or self.config.mix_schedule().constant)
        weight_BT = self.miner.token_weights(tokens, draw)
        num_kept, num_foreign = torch.stack([(weight_BT > 0).sum(), foreign_BT.sum()]).tolist()
        if num_foreign:
            refuse_labels(given_BT, vocab_size)
        loss, loss_K = self._learn(states_BTD, head_VD, labels_BT, weight_BT, num_kept)
        self.full_loss = (loss_K if tokens.loss_BT is None else tokens.loss_BT).sum() / num_valid
        self.kept_share = num_kept / num_valid
        # A token whose score is NaN may never be drawn; the loss must show it all the same.
        return part * loss * torch.where(tokens.finite, 1.0, torch.nan)

    def _read(
        self, tokens: StepTokens, states_BTD: Tensor, head_VD: Tensor | None, keep_ratio: float
    ) -> StepTokens:
        loss_BT, score_BT = read_tokens(
            self.config.score_at(keep_ratio),
            states_BTD,
            head_VD,
            tokens.labels_BT,
            reference_BT=tokens.reference_BT,
            gamma=self.config.gamma,
        )
        return replace(tokens, loss_BT=loss_BT, score_BT=score_BT)

    def _learn(
        self,
        states_BTD: Tensor,
        head_VD: Tensor | None,
        labels_BT: Tensor,
        weight_BT: Tensor,
        num_kept: int,
    ) -> tuple[Tensor, Tensor]:
        normalised_BT = self.miner.normalise(weight_BT, labels_BT != IGNORE_INDEX)
        places_K = kept_places(weight_BT.flatten(), num_kept)
        return kept_loss(
            states_BTD.flatten(0, 1).index_select(0, places_K),
            head_VD,
            labels_BT.flatten()[places_K],
            normalised_BT.flatten()[places_K],
            self.config.loss_gamma,
        )

    def _check(self, vocab_size: int, keep_ratio: float) -> None:
        weight_V = self.miner.class_weight_V
        if weight_V is not None and len(weight_V) != vocab_size:
            raise ValueError(
                f"class_counts had {len(weight_V):,} tokens, but {vocab_size:,} have a logit: "
                f"count with torch.bincount(ids, minlength={vocab_size})"
            )
        if not 0 < keep_ratio <= 1:
            raise ValueError(f"keep_ratio = {keep_ratio} is outside (0, 1]")

    def _move_to(self, device: torch.device) -> None:
        miner = self.miner
        miner.state = {name: tensor.to(device) for name, tensor in miner.state.items()}
        if miner.class_weight_V is not None:
            miner.class_weight_V = miner.class_weight_V.to(device)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the state that mining carries between steps."""
        return self.miner.state

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore the state that mining carries between steps."""
        self.miner.state = dict(state)


def _configured(options: Mapping[str, Any]) -> OhemConfig:
    options = {current_name("ohem", key): value for key, value in options.items()}
    for key in options:
        if key not in OhemConfig.model_fields:
            guess = nearest(key, OhemConfig.model_fields)
            raise ValueError(
                f"unknown option {key}{guess or '; OhemConfig.model_fields has them all'}"
            )
    return build(OhemConfig, options)


def _checked_counts(class_counts: Any) -> Tensor:
    if class_counts is None:
        raise ValueError("class_balanced needs class_counts")
    counts_V = torch.as_tensor(class_counts)
    if counts_V.ndim != 1 or not (counts_V >= 0).all() or not counts_V.any():
        raise ValueError(
            "class_counts must be one count ≥ 0 for each token of the vocabulary, not all of them 0"
        )
    return counts_V


def trainer_loss(ohem: OhemLoss, trainer: Callable[[], Any]) -> Callable[..., Tensor]:
    """Return a `compute_loss_func` for transformers' `Trainer` and a causal LM.

    The keep ratio follows the schedule of `ohem` over the Trainer's steps. While the Trainer
    evaluates, the loss is the mean cross entropy of all tokens.

    Args:
        trainer: returns the `Trainer`; a function, because the Trainer needs this one first:
            `trainer = Trainer(…, compute_loss_func=trainer_loss(ohem, lambda: trainer))`.

    Raises:
        ValueError: a method needs more than logits and labels. The returned function raises it for
            an unsuitable Trainer, model or batch, and for whatever `OhemLoss` refuses.
    """
    config = ohem.config
    if config.needs_reference or config.dedup == "bigram":
        raise ValueError("the Trainer hands over logits and labels: no reference, no input ids")
    schedule, mix = config.keep_schedule(), config.mix_schedule()

    def compute_loss(
        outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None
    ) -> Tensor:
        now = _state(trainer())
        logits_BTV, labels_BT = _logits(outputs), _next_tokens(labels)
        progress = min(1.0, (now.global_step + 0.5) / max(1, now.max_steps))
        return ohem(
            logits_BTV,
            labels_BT,
            keep_ratio=schedule.keep_ratio(progress, now.global_step),
            shares=mix.shares(progress),
            num_items=num_items_in_batch,
        )

    return compute_loss


def _state(trainer: Any) -> Any:
    """Return the `TrainerState` of a Trainer whose settings do not change the loss."""
    if not (hasattr(trainer, "state") and hasattr(trainer, "args")):
        raise ValueError(
            "trainer_loss needs the Trainer itself, whose args may ask for label smoothing: "
            "write trainer_loss(ohem, lambda: trainer)"
        )
    if trainer.args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor = {trainer.args.label_smoothing_factor} does nothing to the "
            "loss of mined tokens: set it to 0"
        )
    return trainer.state


def _logits(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs, by name or as the first element."""
    named = outputs if isinstance(outputs, Mapping) else {"logits": outputs[0]}
    if named.get("logits") is None:
        raise ValueError(
            f"the model returns {', '.join(named)}, no logits: "
            "take one with a head, as AutoModelForCausalLM loads it"
        )
    logits: Tensor = named["logits"]
    return logits


def _next_tokens(labels: Tensor | None) -> Tensor:
    """Return the label of each state, the token after it; ignored for the last state."""
    if labels is None:
        raise ValueError(
            "the batch has no labels: let the data collator add them, as "
            "DataCollatorForLanguageModeling(tokenizer, mlm=False) does"
        )
    # Labels are shifted, not logits, which would be copied.
    return F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
