"""Check the arguments of `OhemLoss` before anything is computed with them.

Shape suffixes: B sequences, T tokens of one, D hidden size, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX


def check_tensors(
    states_BTD: Any, labels_BT: Any, head_VD: Any, beside_BT: Mapping[str, Any]
) -> int:
    """Check kinds, shapes, types and devices, but no values, so that nothing waits for the device.

    Args:
        beside_BT: other tensors (B, T) by name; None where not given.

    Returns:
        V, the number of tokens that have a logit.

    Raises:
        ValueError: an argument does not fit; the message says what to pass instead.
    """
    given = {"states_BTD": states_BTD, "labels_BT": labels_BT, "head_VD": head_VD, **beside_BT}
    for name, value in given.items():
        if value is None and name not in ("states_BTD", "labels_BT"):
            continue
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise ValueError(f"{name} is a {kind}: pass {_WANTED.get(name, 'a tensor')}")
        if value.device != states_BTD.device:
            raise ValueError(f"{name} is on {value.device}, the states on {states_BTD.device}")
    if states_BTD.ndim != 3 or labels_BT.shape != states_BTD.shape[:2]:
        raise ValueError(
            f"states {tuple(states_BTD.shape)} and labels {tuple(labels_BT.shape)} "
            "are not (B, T, D) and (B, T): one label for each state; "
            "[None] makes a batch of one sequence"
        )
    for name, value in beside_BT.items():
        if value is not None and value.shape != labels_BT.shape:
            raise ValueError(
                f"{name} {tuple(value.shape)} has not the shape of the labels, "
                f"{tuple(labels_BT.shape)}"
            )
    if not states_BTD.is_floating_point():
        raise ValueError(f"states are {states_BTD.dtype}: pass hidden states or logits")
    if labels_BT.dtype != torch.int64:
        raise ValueError(f"labels are {labels_BT.dtype}: pass token ids as int64, labels.long()")
    if head_VD is None:
        return int(states_BTD.shape[2])
    _check_head(states_BTD, head_VD)
    return int(head_VD.shape[0])


_WANTED = {
    "states_BTD": "a tensor, such as a model's last_hidden_state or its logits",
    "head_VD": "its weight, such as model.get_output_embeddings().weight",
}


def _check_head(states_BTD: Tensor, head_VD: Tensor) -> None:
    if head_VD.ndim != 2 or head_VD.shape[1] != states_BTD.shape[2]:
        raise ValueError(
            f"the head {tuple(head_VD.shape)} takes no states of size {states_BTD.shape[2]}: "
            "pass the hidden states ahead of it, (B, T, D), and its weight, (V, D); "
            "logits need no head"
        )
    # Under autocast a product casts both.
    same = head_VD.dtype == states_BTD.dtype
    if not (same or torch.is_autocast_enabled(states_BTD.device.type)):
        raise ValueError(
            f"states are {states_BTD.dtype}, the head is {head_VD.dtype}: "
            "cast one to the other's type, or compute both under autocast"
        )


def foreign_labels(labels_BT: Tensor, vocab_size: int) -> Tensor:
    """Mark labels that are neither a token nor `IGNORE_INDEX`; bool (B, T)."""
    token_BT = (labels_BT >= 0) & (labels_BT < vocab_size)
    return ~token_BT & (labels_BT != IGNORE_INDEX)


def refuse_labels(labels_BT: Tensor, vocab_size: int) -> None:
    """Raise an error that names the first foreign label and says what to pass instead.

    Raises:
        ValueError: always.
    """
    row, column = foreign_labels(labels_BT, vocab_size).nonzero()[0].tolist()
    label = int(labels_BT[row, column])
    what = f"the label {label} of token {column} in sequence {row}"
    if label < 0:
        raise ValueError(f"{what} is no token: write {IGNORE_INDEX} where a label is not to count")
    raise ValueError(
        f"{what} is none of the {vocab_size:,} tokens that have a logit: pass logits, or hidden "
        "states with the head's weight, and ids of the model's own tokenizer"
    )
