"""The recipe of a reference: a small model that tells what is like a target."""

from typing import Any

from tinyohem.config.model import Preset
from tinyohem.config.run import RunConfig, validate_config

MOST_EPOCHS = 16  # over the target
VALIDATIONS = 10  # the best of them gives the weights

_DECIDES: dict[str, Any] = {
    "model": True,
    "tokenizer": True,
    "optim": True,
    "training": {"tokens", "batch_size", "seq_len", "attention", "seed", "precision"},
}


def reference_config(preset: Preset, device: str) -> RunConfig:
    """Return the config of a reference: plain training, with a seed and a vocabulary of its own.

    Every run and every seed of a comparison has the same reference on one kind of machine, so that
    all of them choose the same stories.
    """
    return validate_config(
        {
            "model": {"preset": preset},
            "tokenizer": {"vocab_size": 1024},
            "training": {
                "device": device,
                "precision": "float32",
                "seq_len": 512,
                "batch_size": 4,
            },
        }
    )


def reference_recipe(config: RunConfig) -> dict[str, Any]:
    """Return what of the config of a reference decides its scores."""
    limits = {"most_epochs": MOST_EPOCHS, "validations": VALIDATIONS}
    return {**config.model_dump(include=_DECIDES), **limits}
