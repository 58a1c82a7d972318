"""What files of strangers may not do: run code, command the terminal, reach out, learn a secret."""

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file, save_file

from tinyohem.config.recipes import load_config
from tinyohem.data.hub import hub_builder
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json, write_json
from tinyohem.training.loop import train

SECRETS = {
    "HF_TOKEN": "hf_" + "s3cr3t" * 6,
    "WANDB_API_KEY": "5ec2e7" * 6 + "beef",
    "AWS_SECRET_ACCESS_KEY": "aws" + "5ecre7" * 6,
}


def leaks(folder: Path) -> list[str]:
    """Return the files under a folder that hold a secret."""
    known = [secret.encode() for secret in SECRETS.values()]
    return [
        name for name, content in tiny.snapshot(folder).items() if any(s in content for s in known)
    ]


class TestSecrets:
    @pytest.fixture(autouse=True)
    def _secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, secret in SECRETS.items():
            monkeypatch.setenv(name, secret)

    def test_no_token_of_the_environment_lands_in_a_run_folder(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        flags = tiny.flags(corpus, training__steps=2, training__eval_tokens=200)
        result = tinyohem("train", *flags, "--out", tmp_path / "run")
        assert result.code == 0, result.err
        assert leaks(tmp_path) == []
        assert not [s for s in SECRETS.values() if s in result.out + result.err]
        (tmp_path / "run" / "log").write_text(SECRETS["HF_TOKEN"])
        assert leaks(tmp_path) == ["run/log"]

    @pytest.mark.slow
    def test_nor_does_wandb_write_one(self, corpus: Path, tmp_path: Path) -> None:
        config = tiny.config(corpus, training__steps=2, tracking__wandb="offline")
        train(config, tmp_path / "run")
        assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))
        assert leaks(tmp_path) == []


class TestTerminal:
    @pytest.mark.parametrize("evil", ["\x1b]0;owned\x07", "\x9b2J", "\r\x08\x7f", "[bold red]"])
    def test_names_from_a_file_are_shown_and_not_obeyed(
        self, tmp_path: Path, tinyohem: tiny.Command, evil: str
    ) -> None:
        tiny.write_stories(tmp_path / "a.jsonl", ["One."], field=evil)
        result = tinyohem("prepare-data", "--dataset", tmp_path / "a.jsonl")
        assert result.code == 2
        assert 'no field "text"; the fields are: ' in result.err
        assert result.err.replace("\n", "").isprintable()
        assert ("[bold red]" in result.err) == (evil == "[bold red]")

    def test_an_endless_message_is_cut(self, tmp_path: Path, tinyohem: tiny.Command) -> None:
        (tmp_path / "a.jsonl").write_text(f'{{"{"a" * 10**6}": 1}}\n')
        result = tinyohem("prepare-data", "--dataset", tmp_path / "a.jsonl")
        assert result.code == 2
        assert max(map(len, result.err.splitlines())) < 1_100

    def test_harmless_keeps_text_and_shows_the_rest(self) -> None:
        from tinyohem_cli.console import harmless

        assert harmless("Größe\t🐈\n“so”") == "Größe\t🐈\n“so”"
        controls = [chr(c) for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"]
        assert harmless("".join(controls)).isprintable()


class TestCode:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return what anyone asks on the terminal; the answer is yes."""
        questions: list[Any] = []

        def answer(question: object = "") -> str:
            questions.append(question)
            return "y"

        monkeypatch.setattr(builtins, "input", answer)
        return questions

    @pytest.fixture
    def model(self, finished_run: Path, tmp_path: Path) -> Path:
        shutil.copytree(finished_run / "model", tmp_path / "model")
        return tmp_path / "model"

    def test_a_model_with_code_is_refused_without_a_question(
        self, model: Path, tmp_path: Path, tinyohem: tiny.Command, asked: list[Any]
    ) -> None:
        (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        for name, key in (("config", "AutoConfig"), ("tokenizer_config", "AutoTokenizer")):
            path = model / f"{name}.json"
            known = {**json.loads(path.read_text()), "model_type": "own", "tokenizer_class": "Own"}
            write_json(path, {**known, "auto_map": {key: "own.Own", "AutoModel": "own.Own"}})
        result = tinyohem("generate", model)
        assert result.code == 2
        assert "cannot load" in result.err
        assert asked == []
        assert not (tmp_path / "ran").exists()

    def test_pickled_weights_are_left_alone(self, model: Path, tinyohem: tiny.Command) -> None:
        import torch

        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
        result = tinyohem("generate", model)
        assert result.code == 2
        assert "model.safetensors" in result.err

    def test_a_reader_of_datasets_that_is_not_known_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builder = type("Pandas", (), {"__module__": "datasets.packaged_modules.pandas.pandas"})
        monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: builder())
        with pytest.raises(InputError, match="reader 'pandas', which is not trusted"):
            hub_builder("someone/stories", "0123")


class TestPaths:
    @pytest.mark.parametrize(
        ("key", "name"),
        [("dataset", "~nobody-here/a.jsonl"), ("dataset", "a\0*.jsonl"), ("dataset", "/a\0b")],
    )
    def test_names_that_no_file_can_have(
        self, tmp_path: Path, tinyohem: tiny.Command, key: str, name: str
    ) -> None:
        escaped = name.replace("\0", "\\u0000")
        (tmp_path / "a.toml").write_text(f'[data]\n{key} = "{escaped}"\n')
        result = tinyohem("prepare-data", "--recipe", tmp_path / "a.toml")
        assert result.code == 2
        assert "error: there is no file or folder" in result.err

    def test_a_parent_that_no_file_can_be(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('extends = "a\\u0000.toml"\n')
        with pytest.raises(InputError, match="cannot read the recipe"):
            load_config(str(tmp_path / "a.toml"))


class TestCheckpoints:
    """Whole by their own hashes, and yet not this run's."""

    def refused(self, corpus: Path, run_dir: Path, tinyohem: tiny.Command) -> str:
        for state in run_dir.glob("checkpoints/*/state.json"):
            known = read_json(state)
            known.pop("seal", None)
            hashes = {name: hash_file(state.parent / name) for name in known["sha256"]}
            write_json(state, {**known, "sha256": hashes})
        before = tiny.snapshot(run_dir)
        result = tinyohem("train", *tiny.flags(corpus), "--out", run_dir, "--resume", "must")
        assert (result.code, result.out) == (2, ""), result.err
        assert tiny.snapshot(run_dir) == before
        return result.err

    @pytest.mark.parametrize("what", ["weight", "moment", "rng", "queue", "missing"])
    def test_tensors_that_do_not_fit(
        self, corpus: Path, finished_run: Path, tmp_path: Path, tinyohem: tiny.Command, what: str
    ) -> None:
        shutil.copytree(finished_run, tmp_path / "run")
        for path in (tmp_path / "run").glob("checkpoints/*"):
            if path.is_dir():
                self.spoil(path, what)
        told = self.refused(corpus, tmp_path / "run", tinyohem)
        assert "does not fit this run" in told or "another model's weights" in told

    def spoil(self, checkpoint: Path, what: str) -> None:
        weights = checkpoint / "model" / "model.safetensors"
        path = weights if what == "weight" else checkpoint / "optimizer.safetensors"
        tensors = load_file(path)
        first = next(name for name in sorted(tensors) if tensors[name].dim() == 2 or what == "rng")
        match what:
            case "weight" | "moment":
                tensors[first] = tensors[first][1:].contiguous()
            case "rng":
                tensors["rng.cpu"] = tensors["rng.cpu"][:-8].contiguous()
            case "queue":
                tensors["mining:queue"] = tensors[first].clone()
            case "missing":
                del tensors["rng.cpu"]
        save_file(tensors, path, metadata={"format": "pt"})

    def test_a_folder_of_another_name_is_no_checkpoint_and_stays(
        self, corpus: Path, finished_run: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        shutil.copytree(finished_run, tmp_path / "run")
        for name in ("step_notes", "step_1", "step_-00001"):
            (tmp_path / "run" / "checkpoints" / name).mkdir()
        given = ("--out", tmp_path / "run", "--resume", "must")
        assert tinyohem("train", *tiny.flags(corpus), *given).code == 0
        kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
        assert {"step_notes", "step_1", "step_-00001", "step_000020"} <= kept
