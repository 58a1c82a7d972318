"""The order in which training visits its windows: every rule is a permutation.

A rule takes the windows in the order that plain shuffled training draws them, repeats over epochs
included, and returns the same draws in another order. So every arm of a comparison trains on the
same data, and `shuffled` is exactly the run without a curriculum.
"""

import numpy as np
import numpy.typing as npt

from tinyohem.config.curriculum import CurriculumConfig
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.text import IntArray

WARMUP_FRACTION = 0.2
_JITTER, _DRAWS = 1, 2  # separate random streams, so that jitter does not change what follows


def order_draws(
    drawn: IntArray, difficulty: FloatArray, curriculum: CurriculumConfig, seed: int
) -> IntArray:
    """Return `drawn` in the order of the curriculum.

    `warmup`: the first `fraction` of training (by default 0.2) draws the easiest windows only,
    shuffled; then come all others, shuffled.
    `sorted`: easiest first. `reverse`: its exact reverse. `by_length`: shortest first.
    `linear`, `quadratic`, `inverse_quadratic`, `root`: at progress t each draw is uniform over what
    is unseen of the easiest p0 + (1 - p0) f(t), where f(t) is t, t², 1 - (1 - t)² or √t, p0 is
    `initial_competence`, and t is 1 after `fraction` of training, by default all of it (Platanios
    et al. 2019, without replacement).
    `interleaved`: `layers` passes from easy to hard over every `layers`-th window; `zigzag`: the
    same with every second pass reversed.
    `shuffled`: no curriculum.
    With a `jitter_window` the sorted order is first shuffled inside stretches of so many draws.

    Args:
        drawn: (draws,) windows in the order of shuffled training.
        difficulty: (windows,) higher is harder. NaN counts as hardest: what cannot be scored is
            kept out of the easy phase. Equals keep the order of the corpus.
        curriculum: the rule and its parameters.
        seed: of every random choice.
    """
    if curriculum.pacing == "shuffled":
        return drawn.copy()
    ranked = _jitter(_easiest_first(drawn, difficulty), curriculum.jitter_window, seed)
    rng = np.random.default_rng([seed, _DRAWS])
    match curriculum.pacing:
        case "warmup":
            easy, rest = np.split(ranked, [round(_warmup_share(curriculum) * len(ranked))])
            return np.concatenate([rng.permutation(easy), rng.permutation(rest)])
        case "sorted" | "by_length":
            return ranked
        case "reverse":
            return ranked[::-1].copy()
        case "interleaved":
            return _in_layers(ranked, curriculum.layers, reverse_odd=False)
        case "zigzag":
            return _in_layers(ranked, curriculum.layers, reverse_odd=True)
        case _:
            return _draw_from_available(ranked, _available(len(ranked), curriculum), rng)


def describe(
    order: IntArray, difficulty: FloatArray, curriculum: CurriculumConfig, num_steps: int
) -> str:
    """Describe in one line what an order does over a run of `num_steps` steps.

    Args:
        order: (draws,) what `order_draws` made of `difficulty` and `curriculum`.
        difficulty: (windows,) as percentiles.
    """
    match curriculum.pacing:
        case "shuffled":
            return "every window at random, whatever its difficulty"
        case "warmup":
            share = _warmup_share(curriculum)
            easy = difficulty[order[: round(share * len(order))]]
            limit = np.max(easy, initial=0.0, where=~np.isnan(easy))
            text = (
                f"the easiest {share:.0%} of windows (difficulty up to {limit:.1f} of 100) until "
                f"step {round(share * num_steps):,}, then the others"
            )
        case "sorted":
            text = "easiest first"
        case "reverse":
            text = "hardest first"
        case "by_length":
            text = "shortest first"
        case "interleaved":
            text = f"{curriculum.layers} passes from easy to hard"
        case "zigzag":
            text = f"{curriculum.layers} passes, from easy to hard and back in turn"
        case _:
            text = (
                f"any of the easiest {curriculum.initial_competence:.0%} of windows at first, of "
                f"all from step {round((curriculum.fraction or 1) * num_steps):,} on"
            )
    if undefined := int(np.isnan(difficulty[order]).sum()):
        text += f"; windows without a difficulty ({undefined:,}) count as the hardest"
    if curriculum.jitter_window > 1:
        text += f"; shuffled over {curriculum.jitter_window:,} windows at a time"
    return text


def _warmup_share(curriculum: CurriculumConfig) -> float:
    return WARMUP_FRACTION if curriculum.fraction is None else curriculum.fraction


def _easiest_first(drawn: IntArray, difficulty: FloatArray) -> IntArray:
    key = np.nan_to_num(difficulty, nan=np.inf)[drawn]
    return drawn[np.lexsort((drawn, key))]


def _jitter(ranked: IntArray, window: int, seed: int) -> IntArray:
    """Shuffle inside stretches of `window` draws."""
    if window < 2:
        return ranked
    rng = np.random.default_rng([seed, _JITTER])
    stretches = [ranked[at : at + window] for at in range(0, len(ranked), window)]
    return np.concatenate([rng.permutation(stretch) for stretch in stretches])


def _in_layers(ranked: IntArray, layers: int, *, reverse_odd: bool) -> IntArray:
    passes = [ranked[layer::layers] for layer in range(layers)]
    if reverse_odd:
        passes = [part[::-1] if layer % 2 else part for layer, part in enumerate(passes)]
    return np.concatenate(passes)


def _available(draws: int, curriculum: CurriculumConfig) -> IntArray:
    """Return for each draw how many of the easiest windows are available, (draws,).

    Never fewer than were drawn before plus one: each draw takes one away.
    """
    before = np.arange(draws)
    t = np.minimum(1, before / draws / (curriculum.fraction or 1))
    shares = {
        "linear": t,
        "quadratic": t**2,
        "inverse_quadratic": 1 - (1 - t) ** 2,
        "root": np.sqrt(t),
    }
    initial = curriculum.initial_competence
    share = initial + (1 - initial) * shares[curriculum.pacing]
    return np.clip(np.ceil(share * draws).astype(np.int64), before + 1, draws)


def _draw_from_available(
    ranked: IntArray, available: IntArray, rng: np.random.Generator
) -> IntArray:
    """Draw without replacement, each draw uniform over the available windows not yet drawn."""
    chances: npt.NDArray[np.float64] = rng.random(len(ranked))
    pool: list[int] = []
    order = np.empty_like(ranked)
    for draw, (limit, chance) in enumerate(zip(available.tolist(), chances.tolist(), strict=True)):
        pool.extend(ranked[draw + len(pool) : limit].tolist())  # what became available since
        chosen = int(chance * len(pool))
        order[draw] = pool[chosen]
        pool[chosen] = pool[-1]  # the order inside the pool does not matter
        pool.pop()
    return order
