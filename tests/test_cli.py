"""The command line: what help promises, what scripts read, what a wrong word costs."""

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyohem.config.recipes import load_config, recipe_names
from tinyohem.config.run import RunConfig, known_keys, validate_config
from tinyohem.config.sections import explain, flag_of
from tinyohem.config.settings import setting_rows
from tinyohem_cli import console, main
from tinyohem_cli.console import harmless
from tinyohem_cli.main import COMMANDS as ALL_COMMANDS
from tinyohem_cli.main import PANELS, load_command

HEAVY = {"torch", "transformers", "datasets", "tokenizers", "numpy", "pyarrow", "wandb"}
COMMANDS = (
    *("train", "mine", "eval-perplexity", "inspect", "generate", "prepare-data", "compare"),
    *("score-difficulty", "bench"),
)
EVAL_NAMES = {
    "loss",
    "perplexity",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
    "tokens",
    "words",
    "bytes",
    "stories",
    "lost_story_share",
    "unknown_token_share",
}
# Options of `train` that set a key of the recipe, and how their help spells the default.
KEY_OF_OPTION = {
    "--dataset": "data.dataset",
    "--text-field": "data.text_field",
    "--clean": "data.clean",
    "--model": "model.preset",
    "--tokens": "training.tokens",
    "--batch-size": "training.batch_size",
    "--seq-len": "training.seq_len",
    "--seed": "training.seed",
    "--device": "training.device",
    "--ohem-ratio": "ohem.ratio",
    "--ohem-select": "ohem.select",
    "--ohem-reference": "ohem.reference",
    "--ohem-schedule": "ohem.schedule",
    "--ohem-scope": "ohem.scope",
    "--ohem-backward": "ohem.backward",
    "--ohem-min-kept": "ohem.min_kept",
    "--on-nonfinite": "training.on_nonfinite",
    "--wandb": "tracking.wandb",
}
UNITS = {
    ("train", "--tokens"): "tokens",
    ("train", "--steps"): "optimizer steps",
    ("train", "--batch-size"): "sequences",
    ("train", "--seq-len"): "tokens",
    ("train", "--eval-every"): "optimizer steps",
    ("train", "--model"): "parameters",
    ("train", "--ohem-ratio"): "share of tokens",
    ("train", "--ohem-min-kept"): "tokens",
    ("train", "--pool-max-age"): "training tokens",
    ("train", "--pool-refresh-every"): "steps",
    ("mine", "--seq-len"): "tokens",
    ("eval-perplexity", "--seq-len"): "tokens",
    ("eval-perplexity", "--stride"): "tokens",
    ("generate", "--max-new-tokens"): "tokens",
    ("generate", "--top-k"): "tokens",
    ("generate", "--top-p"): "share of the probability",
}


def options_of(command: str) -> dict[str, Any]:
    """Return the options of a command by their first name."""
    parameters = load_command(command).params
    return {p.opts[0]: p for p in parameters if p.opts[0].startswith("--") and p.name != "help"}


def told_of(option: str) -> str:
    """Return meaning and default of the key that an option of `train` sets."""
    fields = (field for keys in known_keys().values() for field in keys.values())
    return next(explain(field) for field in fields if flag_of(field) == option)


def help_at_80_columns(*command: str) -> str:
    """Return what `--help` prints on a terminal of 80 columns."""
    done = subprocess.run(
        [sys.executable, "-m", "tinyohem_cli", *command, "--help"],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    return done.stdout


def visible(text: str) -> str:
    """Return the characters that leave a mark."""
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def default_of(key: str) -> Any:
    """Return the default of a key of the recipe."""
    section, _, name = key.partition(".")
    return getattr(getattr(RunConfig(), section), name)


class TestHelp:
    @pytest.mark.parametrize("command", ["", *COMMANDS, "recipes"])
    def test_it_loads_nothing_heavy(self, command: str) -> None:
        code = (
            "import sys, tinyohem_cli.main as m\n"
            f"sys.argv = {['tinyohem', *command.split(), '--help']!r}\n"
            f"code = m._run()\nprint(sorted({HEAVY!r} & set(sys.modules)), code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[] 0"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option_states_its_default(self, command: str) -> None:
        """In brief, in brackets at the end, under a heading that says so."""
        for name, option in options_of(command).items():
            if option.rich_help_panel:
                assert option.rich_help_panel.endswith(" (default in brackets)")
                assert re.search(r" \([^()]+\)$", option.help), name
                continue
            shown = option.default is not None and option.show_default and not option.is_flag
            is_switch = option.is_flag and not option.secondary_opts
            told = "default:" in option.help or "repeatable" in option.help
            assert shown or is_switch or told, name

    @pytest.mark.parametrize("command", ALL_COMMANDS)
    def test_it_shows_every_word_in_brackets(
        self, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        """The help is markup: a word in brackets vanishes unless they are escaped."""
        monkeypatch.setenv("COLUMNS", "200")
        shown = tinyohem(command, "--help").out
        found = load_command(command)
        texts = [found.help, *(p.help for p in found.params if getattr(p, "help", None))]
        words = [word for text in texts for word in re.findall(r"\[[^\]]*\]", text or "")]
        assert [word for word in words if word not in shown] == []
        assert words or command != "inspect"

    def test_options_state_their_unit(self) -> None:
        for (command, name), unit in UNITS.items():
            told = told_of(name) if command == "train" else options_of(command)[name].help
            assert unit in told.lower(), (command, name)

    def test_the_defaults_are_those_of_the_recipe(self) -> None:
        for name, key in KEY_OF_OPTION.items():
            told = re.findall(r"default: ([^ ,;]+)", told_of(name))
            assert told, name
            default = default_of(key)
            expected = ("yes" if default else "no") if isinstance(default, bool) else str(default)
            assert told == [expected], name
        training, tokenizer = RunConfig().training, RunConfig().tokenizer
        assert f"{training.batch_size} × {training.seq_len} tokens" in told_of("--steps")
        assert f"BPE of {tokenizer.vocab_size:,}" in told_of("--tokenizer")
        from tinyohem.data.parts import HOLDOUT_EVERY

        assert f"1 story in {HOLDOUT_EVERY}" in told_of("--valid")
        peak, tuned = (
            told_of("--lr").split("default: ")[1].split()[0],
            load_config(overrides={"model.init_from": "folder"}),
        )
        assert load_config().optim.lr == pytest.approx(float(peak), rel=0.01)
        assert f"{tuned.optim.lr:g}".replace("e-05", "e-5") in told_of("--lr")
        from tinyohem.config.model import PRESETS

        assert set(re.findall(r"\d[\d.]*[km]", told_of("--model"))) == set(PRESETS)
        from tinyohem.config.schedule import NAMED_SCHEDULES

        for schedule in NAMED_SCHEDULES:
            assert schedule in told_of("--ohem-schedule")

    def test_the_list_of_commands_says_what_each_says_first(
        self, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        shown = visible(tinyohem("--help").out)
        for name, does in ALL_COMMANDS.items():
            assert load_command(name).help.partition("\n\n")[0].replace("\n", " ") == does
            assert visible(name + does) in shown

    def test_the_help_of_train_fits_two_screens(self) -> None:
        """A dozen options in full, the others in a line or two, examples at the end."""
        shown = help_at_80_columns("train")
        assert len(shown.splitlines()) <= 100
        for name, option in options_of("train").items():
            assert f" {name} " in shown
            if option.rich_help_panel:
                assert visible(option.help) in visible(shown).replace("│", "")
        in_full = [
            name for name, option in options_of("train").items() if not option.rich_help_panel
        ]
        assert len(in_full) == 12
        *_, before, first, second, third = shown.rstrip().splitlines()
        assert before.strip() == "Examples:"
        assert all(" tinyohem train --dataset " in line for line in (first, second, third))

    def test_what_train_lists_in_brief_stands_alone(self) -> None:
        for name, option in options_of("train").items():
            if option.rich_help_panel:
                meaning, _, default = option.help.removesuffix(")").partition(" (")
                whole, _, usual = told_of(name).partition("; default: ")
                assert whole.startswith(meaning)
                assert usual.startswith(default)
                assert 8 <= len(option.help) <= 75, name
                assert len(meaning.split()) > 1, name

    def test_the_commands_stand_in_four_groups_before_three_examples(self) -> None:
        shown = help_at_80_columns()
        titles = re.findall(r"^╭─ (\w+) ─", shown, re.M)
        assert (
            titles == ["Options", *PANELS] == ["Options", "Data", "Train", "Evaluate", "Evidence"]
        )
        lines = [line.strip() for line in shown.rstrip().splitlines()]
        assert [line.split()[:2] for line in lines[-3:]] == [
            ["tinyohem", "train"],
            ["tinyohem", "generate"],
            ["tinyohem", "compare"],
        ]

    @pytest.mark.parametrize("command", ALL_COMMANDS)
    def test_the_terminal_alone_breaks_its_paragraphs(self, command: str) -> None:
        loaded = load_command(command)
        for part in (loaded, *getattr(loaded, "commands", {}).values()):
            for paragraph in (part.help or "").split("\n\n"):
                assert "\n" not in paragraph

    def test_it_cites_no_measured_result(self) -> None:
        """Figures belong to the README and LOG.md, which say how they came about."""
        for name in ALL_COMMANDS:
            for parameter in load_command(name).params:
                assert not re.search(r"LOG\.md|bits per byte", getattr(parameter, "help", "") or "")

    @pytest.mark.parametrize("command", ["", *COMMANDS, "report", "recipes list"])
    def test_h_is_help(self, tinyohem: tiny.Command, command: str) -> None:
        short, long = (tinyohem(*command.split(), flag) for flag in ("-h", "--help"))
        assert short == long
        assert short.code == 0
        assert "Usage: " in short.out

    @pytest.mark.parametrize("command", ["compare", "bench"])
    def test_the_first_flags_are_those_of_train(self, command: str) -> None:
        other = options_of(command)
        flags = {"--batch-size", "--seq-len", "--lr", "--eval-every"}
        shared = flags if command == "compare" else {"--batch-size", "--seq-len"}
        assert flags & set(other) == shared
        assert {name: other[name].help for name in shared} == {
            name: options_of("train")[name].help if command == "compare" else told_of(name)
            for name in shared
        }

    def test_every_option_of_train_reaches_its_key(
        self, monkeypatch: pytest.MonkeyPatch, tinyohem: tiny.Command, tmp_path: Path
    ) -> None:
        """Each option changes its own key of the config and no other."""
        from tinyohem.errors import RunError
        from tinyohem.training import loop

        seen: list[RunConfig] = []

        def stop(config: RunConfig, *_: Any, **__: Any) -> Any:
            seen.append(config)
            raise RunError("enough")

        monkeypatch.setattr(loop, "train", stop)
        monkeypatch.chdir(tmp_path)
        keys = KEY_OF_OPTION | {
            "--valid": "data.valid",
            "--tokenizer": "tokenizer.name",
            "--init-from": "model.init_from",
            "--steps": "training.steps",
            "--minutes": "training.minutes",
            "--compile": "training.compile",
            "--target": "target.stories",
            "--lr": "optim.lr",
            "--eval-every": "training.eval_every",
            "--ohem-score": "ohem.score",
            "--ohem-weight": "ohem.weight",
            "--pool-max-age": "ohem.pool_max_age",
            "--pool-refresh-every": "ohem.pool_refresh_every",
            "--curriculum": "curriculum.enabled",
            "--curriculum-metric": "curriculum.metric",
            "--pacing": "curriculum.pacing",
            "--curriculum-fraction": "curriculum.fraction",
        }
        for name, value in {
            "--dataset": "a.jsonl",
            "--valid": "b.jsonl",
            "--target": "good.jsonl",
            "--text-field": "story",
            "--clean": True,
            "--tokenizer": "folder",
            "--model": "5m",
            "--init-from": "folder",
            "--tokens": "4M",
            "--steps": 7,
            "--minutes": 2.5,
            "--batch-size": 16,
            "--seq-len": 64,
            "--lr": 1e-3,
            "--eval-every": 50,
            "--seed": 3,
            "--device": "cpu",
            "--compile": True,
            "--ohem-ratio": 0.5,
            "--ohem-select": "random",
            "--ohem-score": "entropy",
            "--ohem-weight": "focal",
            "--ohem-reference": "pool",
            "--pool-max-age": 5_000,
            "--pool-refresh-every": 500,
            "--ohem-schedule": "anneal",
            "--ohem-scope": "sequence",
            "--ohem-backward": "pruned",
            "--ohem-min-kept": 4,
            "--curriculum": True,
            "--curriculum-metric": "mtld=2,flesch=1",
            "--pacing": "root",
            "--curriculum-fraction": 0.3,
            "--on-nonfinite": "skip",
            "--wandb": "offline",
        }.items():
            # A pool's age means nothing without a pool.
            pool = {"--ohem-reference": "pool"} if name.startswith("--pool") else {}
            more = [argument for pair in pool.items() for argument in pair]
            assert tinyohem("train", name, *([] if value is True else [value]), *more).code == 1
            given = {keys[option]: v for option, v in {name: value, **pool}.items()}
            assert seen[-1] == load_config(overrides=given), name
        covered = {*keys, "--recipe", "--set", "--out", "--resume", "--dry-run", "--json"}
        assert covered == set(options_of("train"))


class TestRecipes:
    def test_list_names_every_recipe(self, tinyohem: tiny.Command) -> None:
        result = tinyohem("recipes", "list")
        assert (result.code, result.err) == (0, "")
        first_words = {line.split(" ")[0] for line in result.out.splitlines()}
        assert set(recipe_names()) <= first_words
        folder = Path(__file__).parents[1] / "recipes"
        assert set(recipe_names()) == {path.stem for path in folder.glob("*.toml")}

    @pytest.mark.parametrize("name", recipe_names())
    def test_show_is_toml_that_loads_back(
        self, tinyohem: tiny.Command, tmp_path: Path, name: str
    ) -> None:
        result = tinyohem("recipes", "show", name)
        assert result.code == 0
        assert validate_config(tomllib.loads(result.out)) == load_config(name)
        copy = tmp_path / "copy.toml"
        copy.write_text(result.out)
        assert load_config(str(copy)) == load_config(name)

    def test_show_explains_every_key(self, tinyohem: tiny.Command) -> None:
        shown = tinyohem("recipes", "show", "baseline").out
        for section, keys in known_keys().items():
            *_, table = shown.partition(f"[{section}]\n")
            for name in keys:
                comment, table = re.split(
                    rf"^(?:{name} = |# {name}: not set).*\n", table, maxsplit=1, flags=re.M
                )
                assert comment.startswith("# "), name
                assert "; default: " in comment.replace("\n# ", " "), name
            assert table.startswith("\n")

    def test_show_prints_the_defaults_without_a_name(self, tinyohem: tiny.Command) -> None:
        result = tinyohem("recipes", "show")
        assert validate_config(tomllib.loads(result.out)) == load_config()

    def test_show_gives_every_key_as_json(self, tinyohem: tiny.Command) -> None:
        config = load_config("ohem")
        rows = json.loads(tinyohem("recipes", "show", "ohem", "--json").out)["settings"]
        assert rows == [row.to_json() for row in setting_rows(config)]
        assert {row["key"]: row["value"] for row in rows} == {
            f"{section}.{key}": value
            for section, values in config.model_dump().items()
            for key, value in values.items()
        }
        by_key = {row["key"]: row for row in rows}
        assert by_key["ohem.ratio"] | {"meaning": ""} == {
            "key": "ohem.ratio",
            "section": "ohem",
            "name": "ratio",
            "takes": "number",
            "unit": "share of the tokens",
            "default": "1.0, plain training",
            "meaning": "",
            "flag": "--ohem-ratio",
            "value": 0.5,
        }
        assert by_key["model.preset"]["takes"] == "260k, 0.5m, 1m, 2m, 5m, 15m"
        assert by_key["training.compile"]["takes"] == "yes or no"

    def test_every_number_but_a_pure_one_has_a_unit(self) -> None:
        pure = {"training.seed", "optim.lr", "optim.weight_decay", "optim.beta1", "optim.beta2"}
        pure |= {"ohem.gamma", "ohem.class_power"}
        numbers = {
            f"{row.section}.{row.name}": row.unit
            for row in setting_rows(load_config())
            if row.takes in ("number", "whole number")
        }
        assert {key for key, unit in numbers.items() if not unit} == pure

    def test_list_reads_no_config(
        self, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tinyohem.config.recipes.validate_config", None)
        assert tinyohem("recipes", "list").code == 0

    def test_show_changes_no_character(self, tinyohem: tiny.Command, tmp_path: Path) -> None:
        recipe = tmp_path / "mine.toml"
        recipe.write_text(
            '[data]\ndataset = "[ab]*/:dog:/🐶 é \\\\ \\".jsonl"\n[optim]\nlr = 1e-7\n'
        )
        shown = tinyohem("recipes", "show", recipe).out
        assert validate_config(tomllib.loads(shown)) == load_config(str(recipe))

    def test_random_is_ohem_but_for_the_selection(self) -> None:
        ohem, random = load_config("ohem").model_dump(), load_config("random").model_dump()
        assert (ohem["ohem"].pop("select"), random["ohem"].pop("select")) == ("topk", "random")
        assert ohem == random
        assert load_config("baseline") == load_config("tinystories-2m") == validate_config({})


class TestPipeline:
    def test_prepare_train_evaluate_generate(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tinyohem: tiny.Command
    ) -> None:
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))
        data = ["--dataset", corpus, "--set", "tokenizer.vocab_size=320"]
        prepared = tinyohem("prepare-data", *data, "--json")
        assert prepared.code == 0
        manifests = json.loads(prepared.out)
        assert list(manifests) == ["train", "valid"]
        assert [manifests[split]["stories"] for split in manifests] == [120, 12]
        size = sum(
            len(json.loads(line)["text"].encode())
            for line in (corpus / "train.jsonl").read_text().splitlines()
        )
        assert manifests["train"]["bytes"] == size
        cached = tiny.snapshot(tmp_path / "data")
        table = tinyohem("prepare-data", *data).out
        assert re.search(rf"train\W+120\W+{manifests['train']['tokens']:,}", table)

        run_dir = tmp_path / "run"
        trained = tinyohem("train", *tiny.flags(corpus), "--out", run_dir, "--json")
        assert trained.code == 0
        summary = json.loads(trained.out)
        assert set(summary) == EVAL_NAMES | {
            "run",
            "finished",
            "steps",
            "tokens_seen",
            "tokens_selected",
            "skipped_steps",
            "pause_seconds",
            "validation_stories",
            "train_seconds",
        }
        assert (summary["run"], summary["finished"], summary["steps"]) == (str(run_dir), True, 20)
        assert tiny.snapshot(tmp_path / "data") == cached  # nothing was prepared twice

        recorded = json.loads((run_dir / "eval.json").read_text())
        assert set(recorded) == EVAL_NAMES
        assert {name: summary[name] for name in EVAL_NAMES} == recorded
        (run_dir / "eval.json").unlink()
        scored = tinyohem("eval-perplexity", run_dir, "--device", "cpu", "--json")
        assert scored.code == 0
        assert json.loads(scored.out) == pytest.approx(recorded, rel=1e-12)
        assert json.loads((run_dir / "eval.json").read_text()) == json.loads(scored.out)
        shown = tinyohem("eval-perplexity", run_dir, "--device", "cpu").out
        for figure in (f"{recorded['perplexity']:.3f}", f"{recorded['tokens']:,}", "per byte"):
            assert figure in shown

        write = ("generate", run_dir, "--prompt", "One day", "--prompt", "Tom", "--device", "cpu")
        told = tinyohem(*write, "--json")
        assert told.code == 0
        (first, second) = json.loads(told.out)["stories"]
        assert (first["prompt"], first["seed"]) == ("One day", 0)
        assert (second["prompt"], second["seed"]) == ("Tom", 1)
        assert first["text"].startswith("One day")
        assert second["text"].startswith("Tom")
        plain = tinyohem(*write).out  # an untrained model writes control characters, too
        assert plain == harmless(
            f"── story 1, seed 0 ──\n{first['text']}\n\n── story 2, seed 1 ──\n{second['text']}\n"
        )

    def test_progress_goes_to_stderr_and_the_result_to_stdout(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        result = tinyohem("train", *tiny.flags(corpus, training__steps=2), "--out", tmp_path / "r")
        assert result.code == 0
        assert "train: 2/2 steps" in result.err
        assert "perplexity per token" in result.out
        assert "train: " not in result.out
        assert f"try: tinyohem generate {tmp_path}/r --prompt 'Once upon a time'" in result.err

    def test_stories_are_printed_as_they_are(
        self, finished_run: Path, tinyohem: tiny.Command
    ) -> None:
        """No markup, no emoji codes, no line breaks of the console's own."""
        prompt = ":dog: [red]"
        greedy = ("--temperature", "0", "--max-new-tokens", "3", "--device", "cpu")
        result = tinyohem("generate", finished_run, "--prompt", prompt, *greedy)
        assert result.out.startswith(prompt)

    def test_several_stories_of_a_prompt(self, finished_run: Path, tinyohem: tiny.Command) -> None:
        write = ("generate", finished_run, "--max-new-tokens", "5", "--device", "cpu", "--json")
        told = tinyohem(*write, "--prompt", "Tom", "--num-samples", "2", "--seed", "7")
        first, second = json.loads(told.out)["stories"]
        assert [first["seed"], second["seed"]] == [7, 8]
        alone = tinyohem(*write, "--prompt", "Tom", "--seed", "8")
        assert json.loads(alone.out)["stories"] == [second]
        refused = tinyohem(*write, "--num-samples", "2", "--temperature", "0")
        assert refused.code == 2
        assert "are the same" in refused.err

    def test_a_story_is_written_while_the_model_runs(
        self, finished_run: Path, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import LlamaForCausalLM

        forward = LlamaForCausalLM.forward
        seen: list[int] = []

        class Stdout(io.StringIO):
            def flush(self) -> None:
                seen.append(len(self.getvalue()))

        def watched(*args: Any, **kwargs: Any) -> Any:
            before.append(len(seen))
            return forward(*args, **kwargs)

        before: list[int] = []
        monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
        monkeypatch.setattr(sys, "stdout", stdout := Stdout())
        write = ("--prompt", "Tom", "--max-new-tokens", "9", "--device", "cpu")
        monkeypatch.setattr(sys, "argv", ["tinyohem", "generate", str(finished_run), *write])
        assert main._run() == 0
        assert stdout.getvalue().startswith("Tom")
        assert before == sorted(set(before)), "the text before each token was flushed"

    def test_a_stopped_run_says_so_in_json(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        recipe = tiny.flags(corpus, training__stop_at_step=2)
        result = tinyohem("train", *recipe, "--out", tmp_path / "run", "--json")
        summary = json.loads(result.out)
        assert (result.code, summary["finished"], summary["steps"]) == (0, False, 2)
        assert "loss" not in summary

    @pytest.mark.parametrize(
        ("ohem", "warned"),
        [
            ({"ohem__ratio": 0.5, "ohem__schedule": "constant"}, True),
            ({"ohem__ratio": 0.5, "ohem__schedule": "anneal"}, True),
            ({"ohem__schedule": "0:1,1:0.5"}, True),
            ({"ohem__ratio": 0.5, "ohem__schedule": "recover"}, False),
            ({"ohem__ratio": 0.95, "ohem__schedule": "constant"}, False),
            ({"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__select": "random"}, False),
            ({}, False),
        ],
    )
    def test_a_biased_end_is_warned_about_in_one_line(
        self,
        corpus: Path,
        tmp_path: Path,
        tinyohem: tiny.Command,
        ohem: dict[str, Any],
        warned: bool,
    ) -> None:
        recipe = tiny.flags(corpus, training__steps=1, **ohem)
        result = tinyohem("train", *recipe, "--out", tmp_path / "run")
        assert result.code == 0
        lines = [line for line in result.err.splitlines() if line.startswith("warning: ")]
        assert len(lines) == warned
        assert all("perplexity" in line for line in lines)

    def test_the_same_command_finds_its_own_folder(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tinyohem: tiny.Command
    ) -> None:
        monkeypatch.chdir(tmp_path)
        stopped = tiny.flags(corpus, training__stop_at_step=3)
        assert tinyohem("train", *stopped).code == 0
        (run_dir,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"2m-[0-9a-f]{8}", run_dir.name)
        assert tinyohem("train", *stopped).code == 2
        assert tinyohem("train", *tiny.flags(corpus), "--resume", "must").code == 0
        assert [run_dir] == list((tmp_path / "runs").iterdir())
        assert (run_dir / "model").is_dir()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "2m"),
        ({"ohem.ratio": 1.0, "ohem.schedule": "constant"}, "2m"),
        ({"model.preset": "0.5m", "ohem.select": "random"}, "0.5m"),
        ({"model.init_from": "some/folder"}, "folder"),
        ({"ohem.ratio": 0.5}, "2m-ohem0.5"),
        ({"ohem.schedule": "anneal-quarter"}, "2m-ohem"),
        ({"ohem.schedule": "0:1,1:0.5"}, "2m-ohem"),
        ({"ohem.schedule": "0:1,1:1"}, "2m"),
        ({"ohem.weight": "focal"}, "2m-focal"),
        ({"ohem.weight": "focal", "ohem.ratio": 0.25}, "2m-ohem0.25-focal"),
        ({"ohem.reference": "pool", "ohem.hard_window_share": 0.5}, "2m-ohem"),
    ],
)
def test_a_folders_name_says_how_a_run_mines_and_nothing_of_a_plain_one(
    given: dict[str, Any], name: str
) -> None:
    from tinyohem.runs.resume import default_run_dir

    folder = default_run_dir(load_config(overrides=given), None)
    assert re.fullmatch(rf"runs/{re.escape(name)}-[0-9a-f]{{8}}", str(folder))


def test_git_ignores_whatever_commands_write_by_default() -> None:
    ignored = (Path(__file__).parents[1] / ".gitignore").read_text().split()
    commands = map(load_command, ALL_COMMANDS)
    outs = {str(p.default) for command in commands for p in command.params if p.name == "out"}
    assert outs >= {"pool", "scores", "report.html"}
    for out in (*outs - {"None"}, "report_figures", "data", "runs"):
        top = out.partition("/")[0]
        assert {f"/{top}", f"/{top}/"} & set(ignored), out


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("trian", "Did you mean 'train'?"),
            ("eval runs/a", "Did you mean 'eval-perplexity'?"),
            ("score stories.jsonl", "Did you mean 'score-difficulty'?"),
            ("train --ohem-rato 0.5", "No such option: --ohem-rato"),
            ("train --steps many", "Invalid value for '--steps'"),
            ("train --resume maybe", "Invalid value for '--resume'"),
            ("generate", "Missing argument 'model'"),
            ("generate run --top-p 2", "Invalid value for '--top-p'"),
            (f"generate run --seed {2**64}", "Invalid value for '--seed'"),
            ("recipes sho", "Did you mean 'show'?"),
            ("runs train", "No such command 'train'."),
            ("generate run more", "unexpected extra argument"),
        ],
    )
    def test_one_error_one_hint_exit_2(
        self, tinyohem: tiny.Command, arguments: str, told: str
    ) -> None:
        result = tinyohem(*arguments.split())
        assert (result.code, result.out) == (2, "")
        error, hint = result.err.splitlines()
        assert error.startswith("error: ")
        assert told in error
        assert hint == "hint: add --help to see the options"

    def test_a_value_without_its_option_is_told_how_to_name_stories(
        self, tinyohem: tiny.Command
    ) -> None:
        result = tinyohem("train", "a.jsonl", "b.jsonl")
        assert (result.code, result.out) == (2, "")
        error, hint = result.err.splitlines()
        assert error.endswith("(a.jsonl b.jsonl)")
        assert hint.startswith("hint: name stories with --dataset, and put quotes")

    @pytest.mark.parametrize("arguments", ["", "recipes"])
    def test_no_command_shows_the_help_and_no_empty_error(
        self, tinyohem: tiny.Command, arguments: str
    ) -> None:
        result = tinyohem(*arguments.split())
        assert result.code == 2
        assert "Usage:" in result.out + result.err
        assert "error:" not in result.err

    def test_version(self, tinyohem: tiny.Command) -> None:
        from tinyohem import __version__

        assert tinyohem("--version") == tiny.Outcome(0, f"tinyohem {__version__}\n", "")

    def test_a_bug_shows_its_traceback(
        self, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def bug(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("tinyohem.config.recipes.recipe_names", bug)
        with pytest.raises(ZeroDivisionError):
            tinyohem("recipes", "list")


def test_the_last_line_of_a_stage_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line may be due just before the end, which prints one of its own."""
    monkeypatch.setattr(console, "_PLAIN_LINE_SECONDS", 0.0)
    progress = console.ConsoleProgress()
    for _ in range(2):
        progress.start("draw", 2, "figures")
        progress.advance(1)
        progress.advance(2)
        progress.finish()
    lines = ["draw: 1/2 figures", "draw: 2/2 figures"]
    assert capsys.readouterr().err.splitlines() == lines * 2


@pytest.mark.parametrize("command", ["train", "eval-perplexity", "score-difficulty", "bench"])
def test_an_option_of_one_value_is_not_taken_twice(command: str, tinyohem: tiny.Command) -> None:
    """Which of the two counts, or whether both do, is not to be guessed."""
    for name, option in options_of(command).items():
        if option.multiple or option.is_flag:
            continue
        model = ["runs/none"] if command == "eval-perplexity" else []
        result = tinyohem(command, *model, name, "1", f"{name}=2")
        assert (result.code, result.err.splitlines()[0]) == (2, f"error: {name} is given twice")
        assert result.err.splitlines()[1].startswith("hint: give it once")


def test_options_that_may_be_repeated_still_are(tinyohem: tiny.Command) -> None:
    same = ("--clean", "--no-clean", "--set", "a.b=1", "--set", "c.d=2")
    assert "unknown section [a]" in tinyohem("train", *same).err
    assert "twice" not in tinyohem("compare", "--arm", "x", "--arm", "y").err
    assert "a folder or a quoted glob" in tinyohem("train", "--dataset=a", "--dataset=b").err
