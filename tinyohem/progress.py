"""How the library tells its caller what it is doing. The library itself prints nothing."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """What a caller may listen to; `cli/console.py` draws it, `SILENT` ignores it."""

    def note(self, text: str) -> None:
        """Tell one thing worth a line, such as a file that was reused."""

    def warn(self, text: str) -> None:
        """Tell one thing that the user should act on."""

    def start(
        self, stage: str, total: int | None, unit: str, *, done: int = 0, transient: bool = False
    ) -> None:
        """Begin a stage of `total` units (unknown: None); ends any stage still open.

        Args:
            done: units that were done before, such as a resumed run's.
            transient: a stage that nobody asks about once it is over: it leaves nothing behind.
        """

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None:
        """Report `done` units so far in the open stage and, optionally, its current figures.

        They may be overwritten or never shown: what is to stay is a `note`.
        """

    def finish(self) -> None:
        """End the open stage."""


class _Silent:
    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def start(
        self, stage: str, total: int | None, unit: str, *, done: int = 0, transient: bool = False
    ) -> None: ...

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...


SILENT: Progress = _Silent()
