"""Start from a trained model: any causal LM of transformers whose loss a step can compute.

Shape suffixes: B sequences, T tokens of one, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.config.run import RunConfig
from tinyohem.data.tokenizer import story_start
from tinyohem.errors import InputError
from tinyohem.models.causal_lm import Trunk, context_length, head_weight, trunk
from tinyohem.models.kept_attention import can_share_attention
from tinyohem.models.source import load_source
from tinyohem.models.trunk_passes import run_all
from tinyohem.ohem.losses import token_losses
from tinyohem.progress import SILENT, Progress

_CHECKED_TOKENS = 16  # of each of two sequences
_LOUD = 50.0  # a logit so large that scaling or capping shows, as it does not at random weights


def load_pretrained(config: RunConfig, progress: Progress = SILENT) -> Any:
    """Load the model that `model.init_from` names, in float32, and check that it can be tuned.

    Dropout stays off, as in training from scratch: a token's loss is then the same in the pass
    that ranks it as in the one that learns from it, and a resumed run is reproducible.

    Raises:
        InputError: there is no such model; a step cannot compute its loss; or it does not fit its
            tokenizer, `training.seq_len`, `training.attention` or `ohem.backward`.
    """
    name = config.model.init_from
    assert name is not None
    source = load_source(name, "cpu", torch.float32)
    model = source.model
    _check_fit(model, config)
    check_losses(model, name)
    start = story_start(source.tokenizer, config.training.attention)
    if start is not None and not keeps_stories_apart(model, start):
        raise InputError(
            f"a token of {name} ({type(model).__name__}) sees the stories before its own",
            "add --set training.attention=window",
        )
    torch.manual_seed(config.training.seed)
    optim = config.optim
    progress.note(
        f"starting from {name}: {type(model).__name__}, {model.num_parameters():,} parameters, "
        f"{optim.optimizer} with a learning rate of {optim.peak_lr:g}"
    )
    return model


def _check_fit(model: Any, config: RunConfig) -> None:
    name, seq_len, longest = config.model.init_from, config.training.seq_len, context_length(model)
    if longest is not None and seq_len > longest:
        raise InputError(
            f"training.seq_len = {seq_len:,} is beyond the {longest:,} positions of {name}",
            f"use --set training.seq_len={longest} or less",
        )
    if config.ohem.backward == "pruned" and not can_share_attention(trunk(model)):
        raise InputError(
            f"ohem.backward = pruned works with Llama models alone, {name} is a "
            f"{type(model).__name__}",
            "leave --ohem-backward out: exact works with every model",
        )


@torch.no_grad()
def check_losses(model: Any, name: str) -> None:
    """Refuse a causal LM whose loss is not that of its hidden states times its head.

    A model may scale or cap its logits, or add a bias to them. The losses of a small batch are
    compared twice, the second time with the head scaled up, because a cap hardly changes the small
    logits of a model that knows little. The weights are restored.

    Raises:
        InputError: the losses differ, or the model has no such head.
    """
    hint = "models that scale or cap their logits, or whose head has a bias, cannot be mined"
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        fault = "no head" if head is None else "a head with a bias"
        raise InputError(f"{name} ({type(model).__name__}) has {fault}", hint)
    weight_VD = head_weight(model)
    before_VD = weight_VD.clone()
    try:
        theirs_BT, ours_BT, loudest = _both_losses(model)
        labelled = model(input_ids=_batch(model), labels=_batch(model)).loss
        same = _close(ours_BT.mean(), labelled, weight_VD.dtype)
        if same:
            weight_VD.mul_(_LOUD / max(loudest, torch.finfo(weight_VD.dtype).tiny * _LOUD))
            theirs_BT, ours_BT, _ = _both_losses(model)
            same = _close(ours_BT, theirs_BT, weight_VD.dtype)
    except (AttributeError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{name} ({type(model).__name__}) is no causal LM of hidden states and a head: {error}",
            hint,
        ) from None
    finally:
        weight_VD.copy_(before_VD)
    if not same:
        raise InputError(
            f"{name} ({type(model).__name__}) computes its loss otherwise than by hidden states "
            "times head",
            hint,
        )


@torch.no_grad()
def keeps_stories_apart(model: Any, story_start: int) -> bool:
    """Whether a token of a causal LM attends to its own story alone where `run_all` says so.

    Models that are recurrent, or make their mask from no positions, do not. Other tokens before a
    story may change its hidden states by a hundredth of what they change in a whole window: some
    masks are large numbers in place of infinity.
    """
    ids_BT = _batch(model)
    half = ids_BT.shape[1] // 2
    ids_BT[0, half] = story_start
    ids_BT[1, half:] = ids_BT[0, half:]

    def change(start: int | None) -> float:
        hidden_BTD, _ = run_all(Trunk.of(trunk(model), story_start=start), ids_BT, "full")
        first_TD, second_TD = hidden_BTD[:, half:].float()
        return (first_TD - second_TD).abs().max().item()

    return change(story_start) <= 0.01 * change(None)


def _batch(model: Any) -> Tensor:
    """Return the same random ids at every call, (2, T)."""
    length = min(_CHECKED_TOKENS, context_length(model) or _CHECKED_TOKENS)
    rng = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, len(head_weight(model)), (2, length), generator=rng)
    return ids_BT.to(head_weight(model).device)


def _both_losses(model: Any) -> tuple[Tensor, Tensor, float]:
    """Return the losses (B, T) by the model's logits and by our head, and the largest logit."""
    ids_BT = _batch(model)
    labels_BT = ids_BT[:, 1:]
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    theirs_BT = F.cross_entropy(logits_BTV[:, :-1].mT, labels_BT, reduction="none")
    hidden_BTD = trunk(model)(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    ours_BT = token_losses(hidden_BTD, head_weight(model), labels_BT)
    return theirs_BT, ours_BT, logits_BTV.abs().max().item()


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    coarser = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return torch.allclose(ours.float(), theirs.float(), rtol=0, atol=1e3 * coarser)
