"""The recipe of a reference: a small model that tells what is like a target."""

from tinyohem.config.model import Preset
from tinyohem.config.run import RunConfig, validate_config


def reference_config(preset: Preset, device: str) -> RunConfig:
    """Return the config of a reference: plain training, with a seed and a vocabulary of its own.

    Every run and every seed of a comparison has the same reference, so that all of them choose the
    same stories.
    """
    return validate_config(
        {
            "model": {"preset": preset},
            "tokenizer": {"vocab_size": 1024},
            "training": {"device": device, "seq_len": 512, "batch_size": 4},
        }
    )
