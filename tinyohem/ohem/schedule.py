"""The keep ratio as a function of training progress: piecewise-linear knots, checked as a whole.

Progress t runs from 0 (before the first step) to 1 (after the last). Two knots at the same t are a
jump; at the jump itself the later knot counts.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from tinyohem.errors import InputError

NAMED_SCHEDULES = ("constant", "anneal", "anneal-quarter", "recover")


@dataclass(frozen=True)
class KeepSchedule:
    """Knots `(t, keep ratio)`, t rising from 0 to 1."""

    knots: tuple[tuple[float, float], ...]
    interrupt: int | None = None

    def keep_ratio(self, progress: float, step: int = 0) -> float:
        """Return the share of tokens to keep at `progress` in [0, 1].

        Args:
            step: optimizer steps done; every `interrupt`-th step keeps all (Composer's
                SelectiveBackprop does so).
        """
        if self.interrupt and (step + 1) % self.interrupt == 0:
            return 1.0
        right = bisect_right(self.knots, progress, key=lambda knot: knot[0])
        if right == len(self.knots):
            return self.knots[-1][1]
        (t0, r0), (t1, r1) = self.knots[right - 1], self.knots[right]
        return r0 + (r1 - r0) * (progress - t0) / (t1 - t0)

    @property
    def lowest(self) -> float:
        """The smallest ratio that any step will see."""
        return min(ratio for _, ratio in self.knots)

    @property
    def ends_full(self) -> bool:
        """Whether the schedule returns to the full objective at the end."""
        return self.knots[-1][1] == 1.0


def parse_schedule(text: str, ratio: float, interrupt: int | None = None) -> KeepSchedule:
    """Build the schedule that `text` names, with `ratio` as its target.

    Args:
        text: one of `NAMED_SCHEDULES`, or knots `t:ratio,t:ratio,...` from t = 0 to t = 1.
        ratio: target keep ratio of the named schedules, in (0, 1]; knots stand as written.
        interrupt: every so many steps one on all tokens.

    Raises:
        InputError: an unknown name, or knots that fall back in t or leave their ranges.
    """
    return KeepSchedule(_knots(text, ratio), interrupt)


def _knots(text: str, ratio: float) -> tuple[tuple[float, float], ...]:
    half_way = (1 + ratio) / 2
    match text:
        case "constant":
            return (0, ratio), (1, ratio)
        case "anneal":
            return (0, 1), (0.2, 1), (0.5, half_way), (1, ratio)
        case "anneal-quarter":
            return (0, 1), (0.2, 1), (0.2, 0.75), (0.5, 0.5), (1, 0.25)
        case "recover":
            return (0, 1), (0.2, 1), (0.4, ratio), (0.7, ratio), (0.8, 1), (1, 1)
        case _:
            return _parse_knots(text)


def _parse_knots(text: str) -> tuple[tuple[float, float], ...]:
    hint = (
        f"use {', '.join(NAMED_SCHEDULES)}, adaptive, "
        'or knots such as "0:1,0.2:1,0.6:0.5,0.9:1,1:1"'
    )
    try:
        pairs = [knot.split(":") for knot in text.split(",")]
        knots = tuple((float(t), float(ratio)) for t, ratio in pairs)
    except ValueError:
        raise InputError(
            f"{text!r} is neither a schedule's name nor a list of knots", hint
        ) from None
    times = [t for t, _ in knots]
    if not all(earlier <= later for earlier, later in pairwise(times)):  # also where one is NaN
        raise InputError(f"schedule {text!r}: t falls back from one knot to the next", hint)
    if times[0] != 0 or times[-1] != 1:
        raise InputError(f"schedule {text!r}: knots must run from t = 0 to t = 1", hint)
    for t, ratio in knots:
        if not 0 < ratio <= 1:
            raise InputError(
                f"schedule {text!r}: ratio {ratio:g} at t = {t:g} is outside (0, 1]", hint
            )
    return knots


def parse_shares(text: str) -> dict[str, float]:
    """Return the shares that `topk=0.5,random=0.5` names; they sum to 1.

    Raises:
        ValueError: no such source, a repeated one, or shares that are no partition of 1.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name not in ("topk", "random", "pool") or name in shares:
            raise ValueError(f"mix {text!r}: {name!r} is no source or stands twice")
        shares[name] = float(share)
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"mix {text!r}: shares must be positive and sum to 1")
    return shares
