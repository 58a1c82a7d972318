"""The rules of the house, kept by reading the code: who may import whom, and what nobody does."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"tinyohem": ROOT / "tinyohem", "tinyohem_cli": ROOT / "cli"}

# From the ground up: a folder imports from those before it, never from those behind.
FLOORS = (
    *("config", "io", "system", "runs", "data", "difficulty", "ohem", "models", "evaluation"),
    *("training", "experiments", "bench", "report", "api"),
)
LOOSE = {"errors", "progress"}  # modules without a folder

# Where a dependency may be imported; a folder ends in a dot.
HOMES = {
    "aiohttp": ("tinyohem.io.remote",),
    "datasets": ("tinyohem.data.hub",),
    "fsspec": ("tinyohem.io.remote",),
    "ftfy": ("tinyohem.data.clean", "tinyohem.difficulty.flags"),
    "jinja2": ("tinyohem.report.html",),
    "lm_eval": (),
    "matplotlib": ("tinyohem.report.",),
    "pydantic": (  # a reader's records stand beside the reader
        "tinyohem.config.",
        "tinyohem.difficulty.score_table",
        "tinyohem.experiments.",
        "tinyohem.io.manifest",
        "tinyohem.ohem.loss_pool",
        "tinyohem.report.",
        "tinyohem.runs.record",
    ),
    "ray": ("tinyohem.difficulty.ray_engine",),
    "rich": ("tinyohem_cli.",),
    "safetensors": ("tinyohem.training.", "tinyohem.difficulty.curriculum"),
    "tokenizers": ("tinyohem.data.tokenizer",),
    "transformers": tuple(
        f"tinyohem.{room}." for room in ("bench", "data", "evaluation", "models")
    ),
    "typer": ("tinyohem_cli.",),
    "wandb": ("tinyohem.training.tracking",),
    "zstandard": ("tinyohem.io.compressed", "tinyohem.difficulty."),
}
# Too slow to load before they are needed: imported inside functions.
LAZY = {
    "aiohttp",
    "datasets",
    "fsspec",
    "ftfy",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "safetensors",
    "tokenizers",
} | {
    "ray",
    "transformers",
    "wandb",
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "click"}


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    source: str  # module that holds it
    target: str  # module, or name inside one
    at_load: bool  # runs when the module is loaded, not inside a function


@cache
def trees() -> dict[str, ast.Module]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def walk(node: ast.AST, at_load: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node with whether it runs at load; what only type checkers see does not."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield child, at_load
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, at_load and not inside and not for_types)


@cache
def imports() -> list[Import]:
    found = []
    for source, tree in trees().items():
        for node, at_load in walk(tree):
            if isinstance(node, ast.Import):
                found += [Import(source, alias.name, at_load) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}: relative import"
                found += [
                    Import(source, f"{node.module}.{alias.name}", at_load) for alias in node.names
                ]
    return found


def within(module: str, *homes: str) -> bool:
    return any(module == home or (home.endswith(".") and module.startswith(home)) for home in homes)


def module_of(target: str) -> str | None:
    """Return our module that an import's target is, or stands in."""
    if target in trees():
        return target
    parent = target.rpartition(".")[0]
    return parent if parent in trees() else None


def test_the_reader_sees_the_code() -> None:
    seen = {(i.source, i.target, i.at_load) for i in imports()}
    assert ("tinyohem.config.sections", "pydantic.BaseModel", True) in seen
    assert ("tinyohem.models.llama", "transformers.LlamaConfig", False) in seen
    assert (
        "tinyohem.data.token_store",
        "transformers.PreTrainedTokenizerFast",
        False,
    ) in seen  # a type
    assert "tinyohem_cli.main" in trees()


def floor_of(module: str) -> int:
    """Return the place of a module in the house; the command line stands on its roof."""
    package, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    if package != "tinyohem":
        return len(FLOORS)
    return FLOORS.index(folder) if folder in FLOORS else -1


def test_every_module_has_a_room() -> None:
    library = [module.split(".") for module in trees() if within(module, "tinyohem.")]
    assert {rooms[1] for rooms in library} == LOOSE | set(FLOORS)


def test_imports_run_downwards() -> None:
    upwards = [
        (i.source, target)
        for i in imports()
        if (target := module_of(i.target)) and floor_of(target) > floor_of(i.source)
    ]
    assert upwards == []


def test_there_is_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in trees()}
    for i in imports():  # those inside functions and for types count too
        target = module_of(i.target)
        if target and target != i.source:
            graph[i.source].add(target)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("package", HOMES)
def test_a_dependency_has_one_home(package: str) -> None:
    strangers = {
        i.source
        for i in imports()
        if i.target.partition(".")[0] == package and not within(i.source, *HOMES[package])
    }
    assert strangers == set()


def test_every_import_is_a_declared_dependency() -> None:
    """What the `dev` extra happens to bring along hides here what a user would lack."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["plots"], *extras["ray"]]
    names = {re.match(r"[\w-]+", line)[0].replace("-", "_").lower() for line in declared}  # type: ignore[index]
    through = {"huggingface_hub", *PACKAGES}  # the first comes with transformers and datasets
    third_party = {i.target.partition(".")[0] for i in imports()} - set(sys.stdlib_module_names)
    assert third_party - names - through == set()


def test_slow_dependencies_are_imported_where_they_are_used() -> None:
    eager = [i for i in imports() if i.at_load and i.target.partition(".")[0] in LAZY]
    # Whoever loads the scorer is about to score: it is what those packages are there for.
    assert [i for i in eager if not i.source.startswith("tinyohem.difficulty.")] == []


def loaded_with(modules: set[str]) -> set[str]:
    """Return the packages that these modules and those they import load at once."""
    packages, reached, todo = set(), set(), set(modules)
    while todo:
        reached |= (module := {todo.pop()})
        for i in imports():
            if i.source in module and i.at_load:
                packages.add(i.target.partition(".")[0])
                target = module_of(i.target)
                todo |= {target} - reached if target else set()
    return packages


def test_the_command_line_loads_no_torch() -> None:
    commands = {name for name in trees() if name.startswith("tinyohem_cli")}
    assert loaded_with(commands) & {"torch", "numpy", "pyarrow"} == set()
    assert "pydantic" in loaded_with(commands)
    assert "pydantic" not in loaded_with({"tinyohem_cli.main"})  # the list of commands


def test_a_config_loads_nothing_heavy() -> None:
    code = "import sys, tinyohem.config.run, tinyohem.config.recipes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "pyarrow", "zstandard"} & set(done.stdout.split()) == set()


def test_nothing_is_pickled_and_no_foreign_code_is_run() -> None:
    assert [i for i in imports() if i.target.partition(".")[0] in FORBIDDEN] == []
    for name, tree in trees().items():
        for call in (node for node, _ in walk(tree) if isinstance(node, ast.Call)):
            function = ast.unparse(call.func)
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert function not in {"eval", "exec"}, name
            assert keywords.get("trust_remote_code", "False") == "False", name
            assert keywords.get("allow_pickle", "False") == "False", name
            if function.endswith(("from_pretrained", "from_config")):  # or they ask
                assert keywords.get("trust_remote_code") == "False", name
            if function == "torch.load":
                assert keywords.get("weights_only") == "True", name


def test_the_library_prints_nothing() -> None:
    printing = {
        name
        for name, tree in trees().items()
        for node, _ in walk(tree)
        if within(name, "tinyohem.")
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
    }
    assert printing == set()


def test_hints_begin_alike() -> None:
    """They follow "hint: " in the middle of a line: no capital."""
    beginnings = set()
    for tree in trees().values():
        named = {
            ast.unparse(node.targets[0]): node.value
            for node, _ in walk(tree)
            if isinstance(node, ast.Assign)
        }
        for call in (node for node, _ in walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in {"InputError", "RunError", "MissingSplitError"}:
                given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "hint")]
                beginnings |= {text for hint in given for text in leading_words(hint, named)}
    assert "check the path" in beginnings
    assert "score the corpus again, into another folder" in beginnings  # through a name
    assert [text for text in beginnings if text[:1].isupper()] == []


def leading_words(node: ast.expr, named: dict[str, ast.expr]) -> list[str]:
    """Return how a string begins, as far as the code shows it."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=[first, *_]):
            return leading_words(first, named)
        case ast.IfExp():
            return leading_words(node.body, named) + leading_words(node.orelse, named)
        case ast.Name(id=name) if name in named:
            return leading_words(named[name], {})
        case _:
            return []
