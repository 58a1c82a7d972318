"""Which tokens teach: losses, scores, selection, weights, schedule.

`OhemLoss` and `trainer_loss` are for loops of your own; `tinyohem train` has its own way through
the other modules.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyohem.ohem.module import OhemLoss as OhemLoss
    from tinyohem.ohem.module import trainer_loss as trainer_loss


def __getattr__(name: str) -> Any:
    # On demand: whoever reads a config out of this package does not want to load torch.
    if name in ("OhemLoss", "trainer_loss"):
        from tinyohem.ohem import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
