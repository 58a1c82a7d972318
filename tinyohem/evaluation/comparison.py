"""What a comparison is: arms × seeds × budget, read from a file and the command line."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tinyohem.config import RunConfig, reject_unknown_keys, validate_config
from tinyohem.errors import InputError
from tinyohem.recipe import assign, overlay, parse_literal, read_recipe

Budget = Literal["equal-tokens", "equal-seconds"]


@dataclass(frozen=True)
class Arm:
    """One way of training: a name and what it sets on top of the common config."""

    name: str
    tree: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What to compare: the first arm is the baseline."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    common: dict[str, Any]
    budget: Budget = "equal-tokens"

    def config(self, arm: Arm, seed: int, seconds: float | None = None) -> RunConfig:
        """Return the config of one run."""
        tree = overlay(self.common, arm.tree)
        assign(tree, "training.seed", seed)
        if seconds is not None:
            assign(tree, "training.seconds", seconds)
        return validate_config(tree)


def plan_comparison(
    file: Path | None,
    arms: Iterable[str],
    seeds: str | None,
    budget: Budget | None,
    common: Mapping[str, Any],
) -> Comparison:
    """Merge a comparison file with what the command line adds to it or sets instead.

    Args:
        file: TOML with `seeds`, `budget`, `[common.<section>]`, `[arms.<name>.<section>]`.
        arms: `name:key=value,…`, where a part without `=` is a recipe; or a bare recipe.
        seeds: a count (`3`) or a list (`0,4,7`).
        common: config tree shared by every arm, laid over the file's.

    Raises:
        InputError: not TOML, an unknown key or recipe, or seeds that are not numbers.
    """
    tree = _read_file(file) if file else {}
    from_file = [Arm(name, settings) for name, settings in tree.get("arms", {}).items()]
    return Comparison(
        arms=(*from_file, *(_parse_arm(text) for text in arms)),
        seeds=_parse_seeds(seeds if seeds is not None else tree.get("seeds", 3)),
        common=overlay(tree.get("common", {}), common),
        budget=budget or tree.get("budget", "equal-tokens"),
    )


def _parse_arm(text: str) -> Arm:
    name, _, settings = text.partition(":")
    tree: dict[str, Any] = {}
    for part in [part for part in (settings or name).split(",") if part]:
        key, equals, literal = part.partition("=")
        if equals:
            assign(tree, key.strip(), parse_literal(literal.strip()))
        else:
            tree = overlay(tree, read_recipe(key.strip()))
    return Arm(name, tree)


def _parse_seeds(seeds: str | int | list[int]) -> tuple[int, ...]:
    if isinstance(seeds, list):
        return tuple(seeds)
    numbers = str(seeds).split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"--seeds {seeds!r} is not a count or a list", "write 3, or 0,4,7")
    chosen = tuple(int(number) for number in numbers)
    return chosen if len(chosen) > 1 else tuple(range(chosen[0]))


def _read_file(path: Path) -> dict[str, Any]:
    hint = "the README's section on compare shows one"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the comparison {path}: {error}", hint) from None
    unknown = set(tree) - {"seeds", "budget", "common", "arms"}
    if unknown:
        raise InputError(f"{path}: unknown key {sorted(unknown)[0]!r}", hint)
    if tree.get("budget", "equal-tokens") not in get_args(Budget):
        raise InputError(
            f"{path}: budget = {tree['budget']!r}", f"use {' or '.join(get_args(Budget))}"
        )
    for name, sections in [("common", tree.get("common", {})), *tree.get("arms", {}).items()]:
        if not isinstance(sections, dict):
            raise InputError(f"{path}: {name} = {sections!r} is not a table", hint)
        reject_unknown_keys(sections)
    return tree


def check(comparison: Comparison) -> list[str]:
    """Validate every run's config and return warnings about what the table could not show.

    Raises:
        InputError: a bad config, fewer than two arms, or a repeated name.
    """
    names = [arm.name for arm in comparison.arms]
    if len(names) < 2:
        raise InputError("a comparison needs at least two arms", "add --arm random, for example")
    for name in names:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise InputError(
                f"the arm {name!r} cannot name a folder", "use letters, digits, - or _"
            )
    if len(set(names)) < len(names):
        raise InputError("two arms share a name", "name them apart: --arm name:key=value")
    configs = [comparison.config(arm, comparison.seeds[0]) for arm in comparison.arms]
    warnings = []
    if len(comparison.seeds) < 3:
        warnings.append(
            f"{len(comparison.seeds)} seed(s) cannot tell a difference from luck; use --seeds 3"
        )
    mined = any(config.ohem.ratio < 1 for config in configs)
    if mined and not any(config.ohem.select == "random" for config in configs):
        warnings.append(
            "no arm selects at random: without that control a gain cannot be told from "
            "training on fewer tokens"
        )
    return warnings
