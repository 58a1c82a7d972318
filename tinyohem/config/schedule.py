"""Keep ratio and source shares over training: piecewise-linear knots, checked as a whole.

Progress t runs from 0 (before the first step) to 1 (after the last). Two knots at the same t are a
jump; at the jump itself the later knot counts.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from tinyohem.errors import InputError

NAMED_SCHEDULES = ("constant", "anneal", "anneal-quarter", "recover")
SOURCES = ("topk", "random", "pool")

# Share of all steps in which the learning rate falls, unless `optim.decay_fraction` says otherwise.
DECAY_FRACTION = 0.6

Knots = tuple[tuple[float, float], ...]  # (t, value), t rising


@dataclass(frozen=True)
class KeepSchedule:
    """Knots `(t, keep ratio)`, t rising from 0 to 1."""

    knots: Knots
    full_step_every: int | None = None

    def keep_ratio(self, progress: float, step: int = 0) -> float:
        """Return the share of tokens to keep at `progress` in [0, 1].

        Args:
            step: optimizer steps done; every `full_step_every`-th step keeps all (Composer's
                SelectiveBackprop does so).
        """
        if self.full_step_every and (step + 1) % self.full_step_every == 0:
            return 1.0
        return _value(self.knots, progress)

    @property
    def lowest(self) -> float:
        """The smallest ratio that any step will see."""
        return min(ratio for _, ratio in self.knots)

    @property
    def ends_full(self) -> bool:
        """Whether the schedule returns to the full objective at the end."""
        return self.knots[-1][1] == 1.0


def parse_schedule(
    text: str,
    ratio: float,
    full_step_every: int | None = None,
    decay_fraction: float = DECAY_FRACTION,
) -> KeepSchedule:
    """Build the schedule that `text` names or writes down.

    Args:
        text: one of `NAMED_SCHEDULES`, or knots `t:ratio,t:ratio,...` from t = 0 to t = 1.
        ratio: target keep ratio of the named schedules, in (0, 1]; knots stand as written.
        full_step_every: optimizer steps from one that keeps all tokens to the next.
        decay_fraction: the last share of the steps, in which the learning rate falls and `recover`
            keeps all tokens.

    Raises:
        InputError: an unknown name, or knots that fall back in t or leave their ranges.
    """
    half_way = (1 + ratio) / 2
    knots: Knots
    match text:
        case "constant":
            knots = (0, ratio), (1, ratio)
        case "anneal":
            knots = (0, 1), (0.2, 1), (0.5, half_way), (1, ratio)
        case "anneal-quarter":
            knots = (0, 1), (0.2, 1), (0.2, 0.75), (0.5, 0.5), (1, 0.25)
        case "recover":
            decays = 1 - decay_fraction
            low = (decays / 2, ratio), (decays * 7 / 8, ratio)
            knots = (0, 1), (decays / 4, 1), *low, (decays, 1), (1, 1)
        case _:
            knots = _parse_knots(text)
    return KeepSchedule(knots, full_step_every)


def _parse_knots(text: str) -> Knots:
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


@dataclass(frozen=True)
class MixSchedule:
    """Each source's share of the kept tokens over training; at any time they sum to 1."""

    knots: dict[str, Knots]

    @property
    def constant(self) -> dict[str, float] | None:
        """The shares if they never change, else None."""
        changes = any(len(knots) > 1 for knots in self.knots.values())
        return None if changes else self.shares(0.0)

    def shares(self, progress: float) -> dict[str, float]:
        """Return every source's share at `progress` in [0, 1]."""
        return {name: _value(knots, progress) for name, knots in self.knots.items()}


def parse_mix(text: str) -> MixSchedule:
    """Parse shares over training.

    Args:
        text: shares such as `topk=0.5,random=0.5`, or knots `t:shares` separated by semicolons,
            such as `0:random=1; 0.5:topk=0.5,random=0.5`: the first at t = 0, straight lines
            between them, the last one held to the end.

    Raises:
        ValueError: an unknown or repeated source, a negative share, shares that do not sum to 1,
            or knots that fall back in t or leave [0, 1].
    """
    parts = text.split(";")
    if len(parts) == 1 and ":" not in text:
        parts = [f"0:{text}"]
    knots = [part.partition(":") for part in parts]
    try:
        times = [float(t) for t, _, _ in knots]
    except ValueError:
        raise ValueError(f"mix {text!r}: write knots as t:shares; t:shares") from None
    if times[0] != 0 or not all(0 <= a <= b for a, b in pairwise([*times, 1.0])):
        raise ValueError(f"mix {text!r}: t must begin at 0, rise and end by 1")
    shares = [_parse_shares(text, written) for _, _, written in knots]
    # In the order written, in which the sources choose.
    names = dict.fromkeys(name for given in shares for name in given)
    return MixSchedule(
        {
            name: tuple((t, given.get(name, 0.0)) for t, given in zip(times, shares, strict=True))
            for name in names
        }
    )


def _parse_shares(text: str, written: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in written.split(","):
        name, _, share = (word.strip() for word in part.partition("="))
        if name not in SOURCES or name in shares:
            raise ValueError(f"mix {text!r}: {name!r} is no source or stands twice")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(f"mix {text!r}: {share!r} is no share of {name}") from None
    # Written so that NaN fails. Exact, because the shares decide how many tokens are kept.
    if not (min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) <= 1e-9):
        raise ValueError(f"mix {text!r}: shares must not be negative and must sum to 1")
    return shares


def _value(knots: Knots, progress: float) -> float:
    """Return the value at `progress` on the straight lines between knots; the last one holds."""
    right = bisect_right(knots, progress, key=lambda knot: knot[0])
    if right == len(knots):
        return knots[-1][1]
    (t0, v0), (t1, v1) = knots[right - 1], knots[right]
    return v0 + (v1 - v0) * (progress - t0) / (t1 - t0)
