"""The recipe of a reference: a small model that tells what is like a target."""

from typing import Any

from tinyohem.config.model import Preset
from tinyohem.config.run import RunConfig, validate_config
from tinyohem.config.training import Attention

_TOKENS_OF_A_STEP = 2_048

MOST_EPOCHS = 16  # over the target
VALIDATIONS = 10  # the best of them gives the weights

_DECIDES: dict[str, Any] = {
    "model": True,
    "tokenizer": True,
    "optim": True,
    "training": {"tokens", "batch_size", "seq_len", "attention", "seed", "precision"},
}


def reference_config(
    preset: Preset, device: str, *, seq_len: int = 512, attention: Attention = "story"
) -> RunConfig:
    """Return the config of a reference: plain training, with a seed and a vocabulary of its own.

    Every run and every seed of a comparison has the same reference on one kind of machine, so that
    all of them choose the same stories.

    Args:
        seq_len: tokens of a window.
    """
    window = {"seq_len": seq_len, "batch_size": max(1, _TOKENS_OF_A_STEP // seq_len)}
    return validate_config(
        {
            "model": {"preset": preset},
            "tokenizer": {"vocab_size": 1024},
            "training": {
                "device": device,
                "precision": "float32",
                "attention": attention,
                **window,
            },
        }
    )


def reference_recipe(config: RunConfig) -> dict[str, Any]:
    """Return what of the config of a reference decides its scores."""
    limits = {"most_epochs": MOST_EPOCHS, "validations": VALIDATIONS}
    return {**config.model_dump(include=_DECIDES), **limits}
