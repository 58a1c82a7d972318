"""README.md and the manual: links, options, pages made from the code; every command is run.

By default the README's commands are run and those of docs/ are checked; `make docs-check` runs all.
"""

import os
import random
import re
import shutil
import subprocess
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
from manual import PAGES, README, ROOT, Block

import tinyohem as library
from tinyohem.config.recipes import load_config, recipe_names
from tinyohem.data.sample.stories import sample_stories
from tinyohem_cli.main import COMMANDS

# What makes any run a short one.
SHORT = {
    "training.steps": "3",
    "training.minutes": "null",
    "training.seconds": "null",
    "training.batch_size": "8",
    "training.seq_len": "32",
    "training.eval_tokens": "500",
}
# What makes a model that does not come from elsewhere a small one.
SMALL = {
    "model.hidden_size": "16",
    "model.num_layers": "1",
    "model.num_heads": "2",
    "model.intermediate_size": "32",
    "tokenizer.vocab_size": "320",
}
# Options by command, with the value that replaces what a page gives.
FEWER = {
    "bench": {"--rounds": "1"},
    "compare": {"--seeds": "1", "--workers": "1"},
    "generate": {"--max-new-tokens": "5"},
    "score-difficulty": {"--workers": "1"},
}


def each(pages: list[Path]) -> Any:
    return pytest.mark.parametrize(
        "page", pages, ids=[str(page.relative_to(ROOT)) for page in pages]
    )


@each([*sorted(ROOT.glob("*.md")), *PAGES[1:]])
def test_links_lead_somewhere(page: Path) -> None:
    for link in manual.links(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in manual.anchors(target), link


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {link.partition("#")[0] for link in manual.links(index)}
    assert named >= {page.name for page in index.parent.glob("*.md")} - {"README.md"}


def test_the_index_of_the_log_has_every_entry() -> None:
    log = ROOT / "LOG.md"
    entries = manual.anchors(log) - {"log"}
    assert entries == {link.removeprefix("#") for link in manual.links(log) if link[0] == "#"}


def test_the_readme_is_short() -> None:
    lines = manual.read(README).splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]
    paragraphs = re.split(r"\n\s*\n", manual.prose(README))
    written = [text for text in paragraphs if not text.startswith(("|", "    ", "#"))]
    assert not [text for text in written if len(text.strip().splitlines()) > 5]


def test_every_figure_of_the_readme_is_among_the_results() -> None:
    figures = set(re.findall(r"(?<![\d.])\d\.\d{3,4}(?!\d)", manual.read(README)))
    assert len(figures) > 10
    assert not {figure for figure in figures if figure not in manual.read(ROOT / "docs/results.md")}


def test_the_readme_names_every_recipe_and_command() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)[^`]*`", manual.read(README)))
    assert named >= {*recipe_names(), *COMMANDS}


def test_what_is_made_from_code_and_records_is_fresh() -> None:
    made = make_docs()
    settings, results = (manual.read(path) for path in (made.SETTINGS, made.RESULTS))
    assert settings == made.settings_page(), "docs/settings.md is old: make docs"
    assert results == made.results_page(results), "docs/results.md is old: make docs"


def make_docs() -> ModuleType:
    spec = spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each(PAGES)
def test_every_option_exists(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    link_scripts(tmp_path)
    manual.write_files(page)
    for block in manual.blocks(page, "bash"):
        assert block.runs in (True, False)
        for words in block.commands():
            assert not (told := fault(words)), f"{block.place}: {' '.join(words)}: {told}"
    for words in manual.inline_commands(page):
        assert not (told := fault(words)), f"{' '.join(words)}: {told}"


@pytest.mark.parametrize(
    "command",
    [
        "tinyohem train --ohem-share 0.5",
        "tinyohem train --set ohem.share=0.5",
        "tinyohem train --ohem-ratio 2",
        "tinyohem compare --arm full:ohem.ratio=1.0 --arm tea",
        "tinyohem fly",
        "make tea",
        "pip install -e '.[tea]'",
        "scripts/reproduce.sh --slowly",
        "python scripts/against_trainer.py --train",
        "tea",
    ],
)
def test_what_does_not_exist_is_found(command: str) -> None:
    assert fault(command.split())


def fault(words: list[str]) -> str:
    """Return what is wrong with a command; empty if nothing is."""
    try:
        manual.check_command(words)
    except Exception as error:
        return repr(error)
    return ""


def test_the_readme_runs(run_page: Callable[[Path], None]) -> None:
    run_page(README)


@pytest.mark.docs
@each([page for page in PAGES if page != README])
def test_a_page_runs(page: Path, run_page: Callable[[Path], None]) -> None:
    run_page(page)


def link_scripts(folder: Path) -> None:
    (folder / "scripts").symlink_to(ROOT / "scripts")


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
    valid = tiny.write_stories(folder / "valid.jsonl", islice(sample_stories("validation"), 12))
    for name, source in (("train", folder / "stories.jsonl"), ("valid", valid)):
        (folder / f"{name}.jsonl.zst").write_bytes(zstandard.compress(source.read_bytes()))
    valid.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the runs remember the names of their files
        for name, ratio in (("full", 1.0), ("mine", 0.5)):
            own = {"data.dataset": "train.jsonl.zst", "data.valid": "valid.jsonl.zst"}
            assignments = [f"{key}={value}" for key, value in (SHORT | SMALL).items()]
            config = load_config(None, {**own, "ohem.ratio": ratio}, assignments)
            train(config, Path("runs", name))
    link_scripts(folder)
    return folder


@pytest.fixture
def run_page(
    stories: Path, tmp_path: Path, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Run the commands and the Python of a page, in order, in a folder with its files."""
    monkeypatch.chdir(shutil.copytree(stories, tmp_path / "page", symlinks=True))
    monkeypatch.setattr("tinyohem.experiments.run.in_parallel", one_by_one)
    for name in ("train", "compare"):
        monkeypatch.setattr(library, name, shortly(getattr(library, name)), raising=False)

    def run(page: Path) -> None:
        manual.write_files(page)
        remove_runs_that_it_makes(page)
        names = python_names()
        for block in manual.blocks(page):
            if block.language == "python":
                exec(compile(block.text, block.place, "exec"), names)
            elif block.language == "bash" and block.runs:
                for words in block.commands():
                    run_command(words, block, tinyohem)

    return run


def one_by_one(jobs: Any, work: Callable[[Any], Any], *_: object) -> Iterator[tuple[Any, Any]]:
    """Run jobs in this process; `compare` has tests of its workers elsewhere."""
    for job in jobs:
        yield job, work(job)


def remove_runs_that_it_makes(page: Path) -> None:
    told = " ".join(block.text for block in manual.blocks(page, "bash"))
    for name in ("runs/full", "runs/mine"):
        if re.search(rf"--out {name}\b(?!-)", told):
            shutil.rmtree(name)


def run_command(words: list[str], block: Block, tinyohem: tiny.Command) -> None:
    """Run a command with a tiny budget; what installs, or is a test of its own, is not run."""
    program, *arguments = words
    if program == "tinyohem":
        outcome = tinyohem(*shortened(arguments))
        assert outcome.code == 0, f"{block.place}: {' '.join(words)}\n{outcome.err}"
    elif program == "python":
        few = ["--target", "60"] if "make_pool" in arguments[0] else []
        command = [sys.executable, *arguments, *few]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, f"{block.place}: {' '.join(words)}\n{done.stderr}"


def shortened(arguments: list[str]) -> list[str]:
    """Return the arguments of a command with a tiny budget; the last `--set` wins."""
    command, given = arguments[0], " ".join(arguments)
    settings: dict[str, str] = {}
    if command in ("train", "compare"):
        settings |= SHORT
    if command == "bench":
        settings |= {"training.seq_len": "32"}
    if command in ("train", "compare", "prepare-data", "bench") and "init" not in given:
        settings |= SMALL
    own = "--dataset" in given and "--dataset sample" not in given
    if command in ("train", "compare", "prepare-data") and not own:
        settings |= {"data.dataset": "train.jsonl.zst"}
    arguments = list(arguments)
    for option, value in FEWER.get(command, {}).items():
        if option not in arguments:
            arguments += [option, value]
        elif not arguments[arguments.index(option) + 1].endswith(","):  # not seeds by name
            arguments[arguments.index(option) + 1] = value
    return [*arguments, *(f"--set={key}={value}" for key, value in settings.items())]


def shortly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `tinyohem.train` or `compare` with a tiny budget."""
    settings = {k: None if v == "null" else int(v) for k, v in (SHORT | SMALL).items()}

    def call(*given: Any, **options: Any) -> Any:
        *ahead, own = given if isinstance(given[-1], dict) and len(given) > 1 else (*given, {})
        return function(*ahead, {**own, **settings}, **options)

    return call


def python_names() -> dict[str, Any]:
    """Return what the manual's Python takes for granted: a model, tokens, an optimizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads))
    ids = torch.randint(0, 64, (4, 16))
    return {
        "model": model,
        "ids": ids,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": [ids, ids],
        "data": [{"input_ids": row, "labels": row} for row in ids],
    }
