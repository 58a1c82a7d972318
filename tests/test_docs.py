"""README.md and the manual: every command is one, the pages made from the code are fresh."""

import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import manual
import pytest
import tiny
import torch
import zstandard
from manual import PAGES, ROOT, Block

import tinyohem
from tinyohem.config.recipes import load_config, recipe_names
from tinyohem.config.run import known_keys
from tinyohem.data.sample.stories import sample_stories
from tinyohem.experiments.spec import check, plan_comparison
from tinyohem_cli.main import COMMANDS, load_command

README = ROOT / "README.md"
# Commands that are not run, however a page marks them.
NEVER_RUN = {"make", "pip", "source", "torchrun", "srun", "scripts/reproduce.sh", "ray"}
# What makes a run of the manual a short one. The last `--set` wins.
SHORT = {
    "training.steps": "3",
    "training.minutes": "null",
    "training.seconds": "null",
    "training.batch_size": "8",
    "training.seq_len": "32",
    "training.eval_tokens": "500",
}
SMALL = {
    "model.hidden_size": "16",
    "model.num_layers": "1",
    "model.num_heads": "2",
    "model.intermediate_size": "32",
    "tokenizer.vocab_size": "320",
}


def each(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=[page.name for page in pages])


def shell_blocks(page: Path) -> list[Block]:
    return [block for block in manual.blocks(page) if block.language == "bash"]


class TestPages:
    @each(PAGES)
    def test_links_lead_somewhere(self, page: Path) -> None:
        for link in manual.links(page):
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in manual.anchors(target), link

    def test_the_index_names_every_page(self) -> None:
        index = ROOT / "docs" / "README.md"
        named = {link.partition("#")[0] for link in manual.links(index)}
        assert named >= {page.name for page in index.parent.glob("*.md")} - {"README.md"}

    def test_the_readme_is_short(self) -> None:
        lines = README.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 150
        assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
        paragraphs = re.split(r"\n\s*\n", manual.prose(README))
        written = [text for text in paragraphs if not text.startswith(("|", "    ", "#", "- "))]
        assert not [text for text in written if text.strip().count("\n") >= 5]

    def test_the_readme_names_every_recipe_and_command(self) -> None:
        named = set(re.findall(r"`([a-z0-9-]+)[^`]*`", README.read_text(encoding="utf-8")))
        assert named >= {*recipe_names(), *COMMANDS}

    def test_pages_made_from_the_code_are_fresh(self) -> None:
        made = make_docs()
        for path, text in (
            (made.SETTINGS, made.settings_page()),
            (made.RESULTS, made.results_page(made.RESULTS.read_text(encoding="utf-8"))),
        ):
            assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: make docs"


def make_docs() -> ModuleType:
    spec = spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each(PAGES)
def test_every_option_exists(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in shell_blocks(page):
        for words in block.commands:
            try:
                read_command(words)
            except Exception as error:
                told = getattr(error, "message", "") or str(error)
                pytest.fail(f"{block.place}: {' '.join(words)}: {told}")
        assert block.runs in (True, False)


def read_command(words: list[str]) -> None:
    """Refuse a command that does not exist or has options that it does not take."""
    if "tinyohem_cli" in words:  # torchrun … -m tinyohem_cli train …
        words = ["tinyohem", *words[words.index("tinyohem_cli") + 1 :]]
    program, *arguments = words
    match program:
        case "tinyohem":
            read_options(arguments[0], arguments[1:])
        case "make":
            targets = [word for word in arguments if "=" not in word]
            assert set(targets) <= set(re.findall(r"^([\w-]+):", read("Makefile"), flags=re.M))
        case "pip":
            extras = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments))
            assert all(f"\n{name} = [" in read("pyproject.toml") for name in extras)
        case "python" | "scripts/reproduce.sh":
            script = arguments.pop(0) if program == "python" else program
            options = [word[2:] for word in arguments if word.startswith("--")]
            assert all(option in read(script) for option in options)
        case _:
            assert program in NEVER_RUN, "an unknown program"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read_options(name: str, arguments: list[str]) -> None:
    assert name in COMMANDS, f"there is no command {name}"
    command = load_command(name)
    if hasattr(command, "commands") and arguments:  # runs list, recipes show
        command = command.commands[arguments.pop(0)]
    given = command.make_context(name, arguments).params
    keys = [f"{section}.{key}" for section, fields in known_keys().items() for key in fields]
    flags = {key: given.get(key.replace(".", "_")) for key in keys}
    flags = {key: value for key, value in flags.items() if value is not None}
    assignments = given.get("assignments") or ()
    if name == "compare":
        common = load_tree(given["recipe"], flags, assignments)
        check(plan_comparison(given["file"], given["arms"] or (), "1", given["budget"], common))
    else:
        load_config(given.get("recipe"), flags, assignments)


def load_tree(recipe: str | None, flags: dict[str, Any], assignments: Any) -> Any:
    from tinyohem.config.recipes import config_tree

    return config_tree(recipe, flags, assignments)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the manual names, made of the built-in sample, and two finished runs."""
    from tinyohem.training.loop import train

    folder = tmp_path_factory.mktemp("manual")
    texts = list(islice(sample_stories("train"), 260))
    rng = random.Random(0)
    junk = [" ".join(rng.sample(text.split(), len(text.split()))) for text in texts[:60]]
    tiny.write_stories(folder / "stories.jsonl", texts[:120])
    tiny.write_stories(folder / "good.jsonl", texts[120:200])
    tiny.write_stories(folder / "pool.jsonl", [*texts[200:], *junk])
    tiny.write_stories(folder / "valid.jsonl", islice(sample_stories("validation"), 12))
    for name, source in (("train", "stories"), ("valid", "valid")):
        packed = zstandard.compress((folder / f"{source}.jsonl").read_bytes())
        (folder / f"{name}.jsonl.zst").write_bytes(packed)
    for run, ratio in (("full", 1.0), ("mine", 0.5)):
        train(short_config(folder, ratio), folder / "runs" / run)
    for name in ("scripts", "recipes", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def short_config(folder: Path, ratio: float) -> Any:
    own = {"data.dataset": str(folder / "train.jsonl.zst"), "ohem.ratio": ratio}
    own |= {"data.valid": str(folder / "valid.jsonl.zst"), "training.device": "cpu"}
    return load_config(None, own, [f"{key}={value}" for key, value in (SHORT | SMALL).items()])


@pytest.fixture
def run_page(
    stories: Path, tmp_path: Path, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Run every command and every Python block of a page, in order, in one folder."""
    monkeypatch.chdir(shutil.copytree(stories, tmp_path / "page", symlinks=True))
    monkeypatch.setattr("tinyohem.experiments.run.in_parallel", one_by_one)

    def run(page: Path) -> None:
        names = python_names(monkeypatch)
        made = made_runs(page)
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        for block in manual.blocks(page):
            match block.language:
                case "bash" if block.runs:
                    for words in block.commands:
                        run_words(words, tinyohem, block)
                case "python":
                    exec(compile(block.text, block.place, "exec"), names)
                case "toml" if block.about:
                    Path(block.about).write_text(block.text)

    return run


def run_words(words: list[str], tinyohem: tiny.Command, block: Block) -> None:
    program, *arguments = words
    if program == "python":
        monkey = [sys.executable, *arguments]
        import subprocess

        done = subprocess.run(monkey, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
    elif program == "tinyohem":
        outcome = tinyohem(*shortened(arguments))
        assert outcome.code == 0, f"{block.place}: {' '.join(words)}\n{outcome.err}"


def made_runs(page: Path) -> list[str]:
    """Return the run folders of the fixture that a page makes itself."""
    return [
        name
        for name in ("runs/full", "runs/mine")
        if any(f"--out {name}" in block.text for block in shell_blocks(page))
    ]


def shortened(arguments: list[str]) -> list[str]:
    """Return a command with a tiny budget."""
    command = arguments[0]
    settings: dict[str, str] = {}
    if command in ("train", "compare"):
        settings |= SHORT
    if command in ("train", "compare", "prepare-data", "bench"):
        starts = any(word.startswith(("--init-from", "model.init_from")) for word in arguments)
        tokenizer = any(word.startswith("--tokenizer") for word in arguments)
        kept = {} if starts else SMALL
        settings |= {
            key: value for key, value in kept.items() if not (tokenizer and "vocab" in key)
        }
    if command in ("train", "compare", "prepare-data") and not {"--dataset", "--recipe"} & {
        *arguments
    }:
        settings |= {"data.dataset": "train.jsonl.zst"}
    if command == "bench":
        settings |= {"training.seq_len": "32"}
    return [*fewer(arguments), *(f"--set={key}={value}" for key, value in settings.items())]


def fewer(arguments: list[str]) -> list[str]:
    """Return a command with at most two seeds, one round, one worker."""
    most = {"--seeds": "2", "--rounds": "1", "--workers": "1", "--max-new-tokens": "5"}
    given = list(arguments)
    for option, value in most.items():
        if option in given:
            at = given.index(option) + 1
            given[at] = value if given[at].isdigit() else given[at]
    if given[0] == "generate" and "--max-new-tokens" not in given:
        given += ["--max-new-tokens", "5"]
    if given[0] == "score-difficulty" and "--workers" not in given:
        given += ["--workers", "1"]
    if given[0] == "bench" and "--rounds" not in given:
        given += ["--rounds", "1"]
    return given


def one_by_one(jobs: Any, work: Callable[[Any], Any], *_: object) -> Iterator[tuple[Any, Any]]:
    """Run jobs in this process; `compare` has tests of its workers elsewhere."""
    for job in jobs:
        yield job, work(job)


def python_names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the manual's Python takes for granted: a model, tokens, an optimizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    ids = torch.randint(0, 64, (4, 16))
    short = SHORT | SMALL
    settings = {key: None if value == "null" else int(value) for key, value in short.items()}
    for name in ("train", "compare"):
        whole = getattr(tinyohem, name)
        shortest = short_call(whole, settings)
        monkeypatch.setattr(tinyohem, name, shortest, raising=False)
    return {
        "model": model,
        "ids": ids,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": [ids, ids],
        "data": [{"input_ids": row, "labels": row} for row in ids],
    }


def short_call(function: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    def call(first: Any, second: Any = None, third: Any = None, **options: Any) -> Any:
        if isinstance(first, str):  # train(dataset, settings)
            return function(first, {**(second or {}), **settings}, **options)
        return function(first, second, {**(third or {}), **settings}, **options)

    return call


def test_the_readme_runs(run_page: Callable[[Path], None]) -> None:
    run_page(README)


@pytest.mark.docs
@each([page for page in PAGES if page != README])
def test_a_page_runs(page: Path, run_page: Callable[[Path], None]) -> None:
    run_page(page)
