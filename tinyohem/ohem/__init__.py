"""Token-level online hard example mining: losses, scores, selection, weights.

`OhemLoss` and `trainer_loss` serve training loops of your own; `tinyohem train` uses the other
modules directly.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyohem.ohem.module import OhemLoss as OhemLoss
    from tinyohem.ohem.module import trainer_loss as trainer_loss


def __getattr__(name: str) -> Any:
    # Loaded on demand: importing this package must not load torch.
    if name in ("OhemLoss", "trainer_loss"):
        from tinyohem.ohem import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
