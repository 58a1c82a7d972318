"""What a comparison is: arms × seeds × budget, read from a file and the command line."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tinyohem.config.aliases import nearest
from tinyohem.config.recipes import (
    assign,
    overlay,
    parse_literal,
    parse_toml,
    read_recipe,
    recipe_names,
)
from tinyohem.config.run import RunConfig, decides_figures, reject_unknown_keys, validate_config
from tinyohem.config.sections import ConfigTree
from tinyohem.errors import InputError, plainly
from tinyohem.experiments.statistics import MIN_SEEDS

Budget = Literal["equal-tokens", "equal-seconds", "equal-seconds-free-selection"]


@dataclass(frozen=True)
class Arm:
    """One way of training: a name and what it sets on top of the common config."""

    name: str
    tree: ConfigTree


@dataclass(frozen=True)
class Comparison:
    """What to compare: the first arm is the baseline."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    common: ConfigTree
    budget: Budget = "equal-tokens"
    margin: float | None = None  # of equivalence to the baseline, bits per byte; None: not tested

    @property
    def timed(self) -> bool:
        """Whether the other arms get the baseline's seconds, not its tokens."""
        return self.budget != "equal-tokens"

    def config(self, arm: Arm, seed: int, seconds: float | None = None) -> RunConfig:
        """Return the config of one run."""
        tree = overlay(overlay({"training": {"compile": False}}, self.common), arm.tree)
        assign(tree, "training.seed", seed)
        if seconds is not None:
            assign(tree, "training.seconds", seconds)
            assign(tree, "training.free_selection", self.budget == "equal-seconds-free-selection")
        return validate_config(tree)


def plan_comparison(
    file: Path | None,
    arms: Iterable[str],
    seeds: str | None,
    budget: Budget | None,
    common: Mapping[str, Any],
    margin: float | None = None,
) -> Comparison:
    """Merge a comparison file with what the command line adds to it or sets instead.

    Args:
        file: TOML with `seeds`, `budget`, `[common.<section>]`, `[arms.<name>.<section>]`.
        arms: `name:key=value,…`, where a part without `=` is a recipe; or a bare recipe.
        seeds: a count (`3`) or a list (`0,4,7`).
        common: config tree shared by every arm, laid over the file's.
        margin: bits per byte within which an arm counts as equivalent to the baseline.

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
        margin=_checked_margin(margin),
    )


def _checked_margin(margin: float | None) -> float | None:
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(
            f"--equivalence {margin:g} is no margin above 0",
            "name the bits per byte that would not matter: 0.005",
        )
    return margin


def _parse_arm(text: str) -> Arm:
    name, _, settings = text.partition(":")
    # Commas inside quotes belong to a value: ohem.schedule="0:1,0.5:0.5,1:1".
    parts = re.findall(r'(?:[^,"]|"[^"]*")+', settings)
    _refuse_split_values(parts, settings)
    if not parts or (name in recipe_names() and all("=" in part for part in parts)):
        parts.insert(0, name)  # an arm named like a recipe starts from that recipe
    tree: ConfigTree = {}
    for part in parts:
        key, equals, literal = part.partition("=")
        if equals:
            assign(tree, key.strip(), parse_literal(literal.strip()))
        else:
            tree = overlay(tree, _recipe_of_arm(key.strip()))
    return Arm(name, tree)


def _refuse_split_values(parts: list[str], settings: str) -> None:
    """Refuse a part that can only be the rest of a value with a comma."""
    setting = ""
    for part in map(str.strip, parts):
        key = part.partition("=")[0].strip()
        if re.fullmatch(r"[a-z_]+\.\w+", key):
            setting = key
        elif setting and part not in recipe_names() and not part.endswith(".toml"):
            raise InputError(
                f"{part!r} in {settings!r} is neither section.key=value nor a recipe",
                f"a value with commas needs quotes: --arm 'name:{setting}=\"…,…\"'",
            )


def _recipe_of_arm(name: str) -> ConfigTree:
    if name.endswith(".toml") or name in recipe_names():
        return read_recipe(name)
    raise InputError(
        f"there is no recipe {name!r}{nearest(name, recipe_names())}",
        "an arm is a recipe (baseline is plain training) or name:key=value, such as "
        "full:ohem.ratio=1.0",
    )


_MAX_SEEDS = 1_000


def _parse_seeds(seeds: Any) -> tuple[int, ...]:
    text = ",".join(map(str, seeds)) + "," if isinstance(seeds, list) else str(seeds)
    numbers = [number.strip() for number in text.split(",") if number.strip()]
    hint = "write how many (3), or which (0,4,7, or 7, for that one alone)"
    if not numbers or not all(re.fullmatch(r"\d{1,10}", number) for number in numbers):
        raise InputError(f"seeds {seeds!r} are no count and no list", hint)
    chosen = [int(number) for number in numbers]
    if "," not in text:
        if chosen[0] > _MAX_SEEDS:
            raise InputError(f"{chosen[0]:,} seeds are more than {_MAX_SEEDS:,}", hint)
        chosen = list(range(chosen[0]))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"seeds {seeds!r} name none, or one of them twice", hint)
    return tuple(chosen)


def _read_file(path: Path) -> ConfigTree:
    hint = "docs/comparing.md shows one"
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not the TOML file of a comparison",
            "name the file, or the arms with --arm; a folder of runs goes with --out",
        )
    try:
        tree = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the comparison {path}: {plainly(error)}", hint) from None
    if unknown := set(tree) - {"seeds", "budget", "common", "arms"}:
        raise InputError(f"{path}: unknown key {sorted(unknown)[0]!r}", hint)
    if tree.get("budget", "equal-tokens") not in list(get_args(Budget)):
        raise InputError(
            f"{path}: budget = {tree['budget']!r}", f"use {' or '.join(get_args(Budget))}"
        )
    arms = tree.get("arms", {})
    if not isinstance(arms, dict):
        raise InputError(f"{path}: arms = {arms!r} is not a table", hint)
    for name, sections in [("common", tree.get("common", {})), *arms.items()]:
        if not isinstance(sections, dict):
            raise InputError(f"{path}: {name} = {sections!r} is not a table", hint)
        reject_unknown_keys(sections)
    return tree


def check(comparison: Comparison) -> list[str]:
    """Validate every arm's config; return warnings of what the table will not show.

    Raises:
        InputError: a bad config, fewer than two arms, a repeated name, or an arm whose data,
            validation stories, tokenizer or budget is not the others'.
    """
    names = [arm.name for arm in comparison.arms]
    _check_names(names)
    baseline, *others = comparison.arms
    seed, seconds = comparison.seeds[0], 1.0 if comparison.timed else None
    configs = [comparison.config(baseline, seed)]
    configs += [comparison.config(arm, seed, seconds) for arm in others]
    for name, config in zip(names, configs, strict=True):
        if not _same_source(config, configs[0]):
            raise InputError(
                f"the arm {name!r} has other data or another tokenizer than {names[0]!r}",
                "name them once for all arms: --dataset, --set, or [common] in the file; an arm "
                "may have its own data.dataset where --valid names the stories that all are "
                "scored on",
            )
        if config.data.valid is None and config.target.stories != configs[0].target.stories:
            raise InputError(
                f"the arm {name!r} has another target than {names[0]!r}, and so would be validated "
                "on other stories",
                "name --valid, or one --target for all: the arm that trains on every story has "
                "target.keep=1",
            )
        if not comparison.timed and config.training.seconds is not None:
            raise InputError(
                f"training.seconds ends the arm {name!r}, whatever its tokens",
                "leave it out, or compare with --budget equal-seconds",
            )
        if config.training.minutes is not None:
            raise InputError(
                f"training.minutes gives the arm {name!r} its own number of steps",
                "give all arms one budget with --tokens 4M",
            )
        if config.training.stop_at_step is not None:
            raise InputError(
                f"training.stop_at_step ends the arm {name!r} ahead of its result", "leave it out"
            )
    return _warnings(comparison, configs)


def _same_source(config: RunConfig, baseline: RunConfig) -> bool:
    """Whether two arms are scored on the same stories, and read others alike."""
    own, others = decides_figures(config), decides_figures(baseline)
    if config.data.valid is not None:
        own["data"] |= {"dataset": baseline.data.dataset}
    return (own["data"], own["tokenizer"]) == (others["data"], others["tokenizer"])


def _check_names(names: list[str]) -> None:
    if len(names) < 2:
        raise InputError("a comparison needs at least two arms", "add --arm random, for example")
    for name in names:
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise InputError(
                f"the arm {name!r} cannot name a folder", "use letters, digits, - or _"
            )
    if len(set(names)) < len(names):
        raise InputError("two arms share a name", "name them apart: --arm name:key=value")


def _warnings(comparison: Comparison, configs: list[RunConfig]) -> list[str]:
    warnings = []
    if any(config.training.seq_len != configs[0].training.seq_len for config in configs):
        warnings.append("arms differ in seq_len: each is scored with its own length of context")
    if configs[0].tokenizer.name is None and any(
        (config.data, config.target, _filter(config))
        != (configs[0].data, configs[0].target, _filter(configs[0]))
        for config in configs
    ):
        warnings.append(
            "arms that train on other stories have vocabularies of their own: only bits per byte "
            "compare; one vocabulary for all: --set tokenizer.name=…"
        )
    if len(comparison.seeds) < MIN_SEEDS:
        warnings.append(
            f"{len(comparison.seeds)} seed(s) cannot tell a difference from luck, so the table has "
            f"no verdict; use --seeds {MIN_SEEDS}"
        )
    return warnings + _missing_controls(comparison, configs)


def _filter(config: RunConfig) -> tuple[str, str] | None:
    """Return what decides which stories a range of difficulty keeps, None without one."""
    curriculum = config.curriculum
    return (curriculum.metric, curriculum.keep) if curriculum.filters else None


def _missing_controls(comparison: Comparison, configs: list[RunConfig]) -> list[str]:
    """Warn of arms that mine without a control: an arm that keeps as many tokens at random.

    How many tokens `adaptive` keeps is known only afterwards: any random arm is its control.
    """
    mining = {
        arm.name: config
        for arm, config in zip(comparison.arms, configs, strict=True)
        if config.keep_schedule.lowest < 1
    }
    at_random = [c.keep_schedule for c in mining.values() if c.ohem.select == "random"]
    if mining and not at_random:
        return [
            "no arm selects at random: without that control a gain cannot be told from "
            "training on fewer tokens"
        ]
    return [
        f"no arm selects at random as many tokens as {name!r}, so its gain or loss cannot be told "
        "from that of training on fewer tokens"
        for name, config in mining.items()
        if not config.ohem.adaptive and config.keep_schedule not in at_random
    ]
