"""The section `[model]`: presets by size, shapes, a learning rate for each width."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import model_validator

from tinyohem.config.sections import Section, setting
from tinyohem.errors import InputError


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int

    def num_parameters(self, vocab_size: int) -> int:
        """Count the tied embedding, the last norm, and per layer 7 matrices and 2 norms."""
        layer = self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size + 2)
        return self.hidden_size * (vocab_size + 1) + self.num_layers * layer


# Named after their parameter count at the default vocabulary of 4,096.
PRESETS = {
    "260k": Shape(hidden_size=48, num_layers=2, num_heads=3, intermediate_size=144),
    "0.5m": Shape(hidden_size=80, num_layers=3, num_heads=5, intermediate_size=160),
    "1m": Shape(hidden_size=112, num_layers=4, num_heads=7, intermediate_size=288),
    "2m": Shape(hidden_size=160, num_layers=4, num_heads=5, intermediate_size=448),
    "5m": Shape(hidden_size=224, num_layers=7, num_heads=7, intermediate_size=576),
    "15m": Shape(hidden_size=384, num_layers=8, num_heads=6, intermediate_size=960),
}


def model_shape(config: "ModelConfig") -> Shape:
    """Return the preset's shape with the config's own dimensions laid over it.

    Raises:
        InputError: the hidden size does not divide into heads of an even size.
    """
    assert config.preset is not None  # init_from brings its own shape
    own = config.model_dump(exclude={"preset", "init_from"}, exclude_none=True)
    shape = replace(PRESETS[config.preset], **own)
    if shape.hidden_size % (2 * shape.num_heads):
        raise InputError(
            f"model.hidden_size = {shape.hidden_size} does not divide into {shape.num_heads} heads "
            "of an even size",
            "choose a hidden size that is a multiple of 2 × model.num_heads",
        )
    return shape


def suitable_lr(hidden_size: int) -> float:
    """Return the learning rate for a width: 16e-3 up to 80, then falling as width^-1.5.

    The curve fits the best rates of the sweeps at `0.5m` and `2m` (LOG.md). Elsewhere it is a
    guess, so it has two digits.
    """
    return float(f"{16e-3 * min(1.0, 80 / hidden_size) ** 1.5:.1e}")


Preset = Literal["260k", "0.5m", "1m", "2m", "5m", "15m"]


class ModelConfig(Section):
    """A preset by parameter count; the other keys override single dimensions of it."""

    preset: Preset | None = setting(
        "2m", "Size in parameters: 260k, 0.5m, 1m, 2m, 5m or 15m", flag="--model"
    )
    hidden_size: int | None = setting(
        None,
        "Width of the residual stream",
        default_is="the preset's",
        ge=8,
        le=2**16,
        unit="features",
    )
    num_layers: int | None = setting(
        None, "Layers", default_is="the preset's", ge=1, le=1_000, unit="layers"
    )
    num_heads: int | None = setting(
        None, "Attention heads of a layer", default_is="the preset's", ge=1, le=2**16, unit="heads"
    )
    intermediate_size: int | None = setting(
        None, "Width of a layer's MLP", default_is="the preset's", ge=1, le=2**20, unit="features"
    )
    init_from: str | None = setting(
        None,
        "Start from a trained model, with its shape and tokenizer: run folder, checkpoint, "
        "transformers folder or Hub id (safetensors only). Unless set, training is then AdamW at "
        "5e-5, as transformers' Trainer tunes (the rates for random weights would wipe out what it "
        "knows), over one epoch",
        flag="--init-from",
        default_is="random weights",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_trained_model_has_its_shape(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or tree.get("init_from") is None:
            return tree
        flags = {"preset": "preset (--model)"}
        set_too = [key for key, value in tree.items() if key != "init_from" and value is not None]
        given = [flags.get(key, key) for key in set_too]
        if given:
            raise ValueError(f"init_from brings its own shape: leave out {', '.join(given)}")
        return {"preset": None, **tree}

    @model_validator(mode="after")
    def _there_is_a_shape(self) -> Self:
        if self.preset is None and self.init_from is None:
            raise ValueError("name a preset or init_from")
        return self
