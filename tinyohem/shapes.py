"""Model sizes: presets by parameter count, and the learning rate that suits a width."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinyohem.errors import InputError

if TYPE_CHECKING:
    from tinyohem.config import ModelConfig


@dataclass(frozen=True)
class Shape:
    """The dimensions that decide a model's size."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int

    def num_parameters(self, vocab_size: int) -> int:
        """Count: the tied embedding; per layer 4 attention and 3 MLP matrices, 2 norms."""
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
    assert config.preset is not None  # a model that a run starts from has its own shape
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
    """Return the learning rate for a width: 16e-3 up to 80, falling with its power of 1.5.

    The curve goes through the best rates of the sweeps at `0.5m` and `2m` (LOG.md); elsewhere it is
    a guess. Two digits are all that such a guess is worth.
    """
    return float(f"{16e-3 * min(1.0, 80 / hidden_size) ** 1.5:.1e}")
