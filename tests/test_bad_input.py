"""Bad input through the real command line: one error line, one hint, exit code 2, nothing lost."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
import zstandard

from tinyohem.data.sample.stories import sample_stories

Reject = Callable[..., str]


@pytest.fixture
def reject(tinyohem: tiny.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reject:
    """Run a command that must refuse; return its error line.

    Also check that it made no run folder and that no file here has changed but the caches.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")

    def command(*arguments: object, hint: str) -> str:
        before = tiny.snapshot(tmp_path)
        result = tinyohem(*arguments)
        assert (result.code, result.out) == (2, ""), result.err
        assert "Traceback" not in result.err
        *progress, error, told = result.err.splitlines()
        assert not [line for line in progress if line.startswith(("error:", "hint:"))]
        assert error.startswith("error: ")
        assert told.startswith("hint: ")
        assert hint in told
        assert not (tmp_path / "run").exists()
        assert tiny.snapshot(tmp_path) == before
        return error.removeprefix("error: ")

    return command


def train(corpus: Path, *more: object, **overrides: Any) -> list[object]:
    """Return the arguments of a tiny `train` into the folder `run`."""
    return ["train", *tiny.flags(corpus, **overrides), "--out", "run", *more]


class TestCorpus:
    @pytest.mark.parametrize("command", ["train", "prepare-data", "eval-perplexity"])
    def test_missing_file(
        self, reject: Reject, corpus: Path, finished_run: Path, command: str
    ) -> None:
        arguments = {
            "train": [*train(corpus), "--set=data.dataset=nowhere.jsonl"],
            "prepare-data": ["prepare-data", "--dataset", "nowhere.jsonl"],
            "eval-perplexity": ["eval-perplexity", finished_run, "--dataset", "nowhere.jsonl"],
        }
        error = reject(*arguments[command], hint="check the path")
        assert error == "there is no file or folder nowhere.jsonl"

    def test_no_network(self, reject: Reject, corpus: Path) -> None:
        error = reject(*train(corpus, "--set=data.dataset=some/one"), hint="--dataset sample")
        assert "the Hub cannot be reached" in error

    @pytest.mark.parametrize("content", ["", "\n\n", '{"text": " "}\n'])
    def test_empty_corpus(self, reject: Reject, corpus: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "empty.jsonl").write_text(content)
        for option in ("data.dataset", "data.valid"):
            arguments = [*train(corpus), f"--set={option}=empty.jsonl"]
            assert reject(*arguments, hint="check the file") == "empty.jsonl holds no story"

    def test_a_corpus_too_small_to_hold_stories_out(
        self, reject: Reject, corpus: Path, tmp_path: Path
    ) -> None:
        path = tiny.write_stories(tmp_path / "small.jsonl", ["Tom ran.", "TOM ran."])
        error = reject(*train(path, tokenizer__vocab_size=300), hint="--valid")
        assert error == f"{path}: no story is left to train on once one is held out"

    def test_a_corpus_shorter_than_one_window(
        self, reject: Reject, corpus: Path, finished_run: Path, tmp_path: Path
    ) -> None:
        path = tiny.write_stories(tmp_path / "short.jsonl", ["Ten tokens."])
        given = {"data__valid": str(corpus / "valid.jsonl")}
        tokenizer = ("--tokenizer", finished_run / "model")
        error = reject(*train(path, *tokenizer, **given), hint="training.seq_len=")
        assert "fewer than one window of 32" in error

    def test_wrong_text_field(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        told = f'{corpus}/train.jsonl:1: no field "tale"; the fields are: text'
        assert reject(*train(corpus, "--text-field", "tale"), hint="--text-field") == told
        pq.write_table(pa.table({"body": ["One."]}), tmp_path / "a.parquet")
        error = reject("prepare-data", "--dataset", "a.parquet", hint="--text-field")
        assert error == 'a.parquet: no field "text"; the fields are: body'

    def test_broken_json_line(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        lines = (corpus / "train.jsonl").read_text().splitlines()
        lines[70] = lines[70][:-5]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        error = reject(*train(Path("a.jsonl")), hint="one whole JSON object")
        assert error.startswith("a.jsonl:71: broken JSON: ")
        # In the validation stories as well.
        arguments = train(corpus, "--valid", "a.jsonl")
        assert reject(*arguments, hint="JSON object").startswith("a.jsonl:71: broken JSON: ")

    def test_truncated_zstd(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        whole = zstandard.compress((corpus / "train.jsonl").read_bytes())
        (tmp_path / "a.jsonl.zst").write_bytes(whole[:-200])
        error = reject(*train(Path("a.jsonl.zst")), hint="cut short")
        assert error.startswith("a.jsonl.zst cannot be read: ")

    def test_invalid_utf_8(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        content = (corpus / "train.jsonl").read_bytes().splitlines(keepends=True)
        content[3] = content[3].replace(b"the", b"th\xff", 1)
        (tmp_path / "a.jsonl").write_bytes(b"".join(content))
        error = reject(*train(Path("a.jsonl")), hint="UTF-8")
        assert error.startswith("a.jsonl:4: not UTF-8")

    def test_vocabulary_larger_than_the_data_supports(self, reject: Reject, corpus: Path) -> None:
        error = reject(*train(corpus, tokenizer__vocab_size=9_999), hint="tokenizer.vocab_size=")
        assert "supports a vocabulary of " in error
        assert error.endswith("not 9,999")

    def test_the_hint_on_the_vocabulary_is_right(
        self, reject: Reject, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        arguments = ["prepare-data", "--dataset", corpus, "--json", "--set"]
        error = reject(*arguments, "tokenizer.vocab_size=9999", hint="use more text")
        size = int(error.split("vocabulary of ")[1].split(" ")[0].replace(",", ""))
        assert tinyohem(*arguments, f"tokenizer.vocab_size={size}").code == 0

    def test_a_failed_preparation_leaves_no_store(
        self, reject: Reject, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "elsewhere"))
        (tmp_path / "a.jsonl").write_text((corpus / "train.jsonl").read_text() + "{\n")
        reject(*train(Path("a.jsonl")), hint="JSON")
        assert list((tmp_path / "elsewhere").rglob("manifest.json")) == []

    def test_no_such_tokenizer(self, reject: Reject, corpus: Path) -> None:
        error = reject(*train(corpus, "--tokenizer", "no/such"), hint="tokenizer.json")
        assert error.startswith("no/such is no file or folder, and the Hub cannot be reached")

    def test_validation_on_the_training_stories(
        self, reject: Reject, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        stories = corpus / "train.jsonl"
        error = reject(*train(stories, "--valid", stories), hint="name held-out stories")
        assert error == f"the validation stories {stories} are the training stories"
        for name in ("train.jsonl", "valid.jsonl"):
            (tmp_path / "twice").mkdir(exist_ok=True)
            shutil.copy(stories, tmp_path / "twice" / name)
        assert reject(*train(stories, "--valid", "twice/valid.jsonl"), hint="leave it out")
        assert reject(*train(Path("twice")), hint="name held-out stories")
        # One file with some of its stories held out is something else.
        assert tinyohem("prepare-data", *tiny.flags(stories)).code == 0


class TestRecipe:
    @pytest.mark.parametrize("ratio", ["0", "-0.5", "1.01", "nan", "inf"])
    def test_ratio_outside_its_range(self, reject: Reject, corpus: Path, ratio: str) -> None:
        error = reject(*train(corpus, f"--ohem-ratio={ratio}"), hint="in (0, 1]: 0.5 keeps half")
        assert error.startswith("ohem.ratio = ")

    @pytest.mark.parametrize(
        "schedule",
        [
            "0:1,0.6:0.5,0.4:0.5,1:1",  # t falls back
            "0:1,1.5:1",
            "-0.5:1,1:1",
            "0.1:1,1:1",
            "0:1,0.5:1",
            "0:1,0.5:0,1:1",
            "0:1.5,1:1",
            "0:1,0.5:-0.1,1:1",
            "0:1,0.5:nan,1:1",
            "0:1,nan:0.5,1:1",
            "0:1,0.5,1:1",
            "0:1:1,1:1",
            "",
            "sometimes",
        ],
    )
    def test_schedule_out_of_order_or_range(
        self, reject: Reject, corpus: Path, schedule: str
    ) -> None:
        arguments = train(corpus, "--ohem-ratio=0.5", f"--ohem-schedule={schedule}")
        error = reject(*arguments, hint="knots such as")
        assert repr(schedule) in error

    @pytest.mark.parametrize(
        ("assignment", "told"),
        [
            ("ohem.rato=0.5", "unknown key ohem.rato; did you mean ohem.ratio?"),
            ("trainig.steps=5", "unknown section [trainig]; did you mean training?"),
            ("training.batchsize=5", "did you mean training.batch_size?"),
        ],
    )
    def test_unknown_key_suggests_the_nearest(
        self, reject: Reject, corpus: Path, tmp_path: Path, assignment: str, told: str
    ) -> None:
        hint = "recipes show baseline"
        assert told in reject(*train(corpus, "--set", assignment), hint=hint)
        section, _, rest = assignment.partition(".")
        (tmp_path / "mine.toml").write_text(f"[{section}]\n{rest}\n")
        assert told in reject(*train(corpus, "--recipe=mine.toml"), hint=hint)

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("--recipe=omen", "no recipe 'omen'; did you mean ohem?"),
            ("--recipe=gone.toml", "cannot read the recipe gone.toml: No such file or directory"),
            ("--recipe=broken.toml", "recipe 'broken.toml' is not TOML"),
            ("--recipe=flat.toml", "[ohem] is 0.5, not a table"),
            ("--recipe=flat.toml --ohem-ratio=0.5", "[ohem] is 0.5, not a table"),
            ("--recipe=child.toml", "[ohem] is 0.5, not a table"),
            ("--recipe=orphan.toml", "no recipe 'nobody'"),
            ("--recipe=grandchild.toml", "extends a third one"),
            ("--set training.steps", "has no '='"),
            ("--set steps=5", "'steps' names no key"),
            ("--set training.steps=0", "training.steps = 0: "),
            ("--set training.steps=2.5", "training.steps = 2.5: "),
            ("--set optim.lr=-1", "optim.lr = -1: "),
            (
                "--set training.micro_batch_size=3",
                "micro_batch_size = 3 must divide batch_size = 4",
            ),
            ("--set model.hidden_size=18", "model.hidden_size = 18 does not divide into 2 heads"),
            ("--tokens=lots", "training.tokens = 'lots' is not a number of tokens"),
            ("--tokens=0", "training.tokens = '0' is not a number of tokens"),
            ("--model=3m", "model.preset = '3m': "),
            ("--ohem-select=best", "ohem.select = 'best': "),
            ("--seed=-1", "training.seed = -1: "),
            ("--wandb=maybe", "tracking.wandb = 'maybe': "),
        ],
    )
    def test_a_bad_value_is_named(
        self, reject: Reject, corpus: Path, tmp_path: Path, arguments: str, told: str
    ) -> None:
        for name, text in {
            "broken": "[ohem",
            "flat": "ohem = 0.5\n",
            "child": 'extends = "flat.toml"\n[ohem]\nratio = 0.5\n',
            "orphan": 'extends = "nobody"\n',
            "grandchild": 'extends = "random"\n',
        }.items():
            (tmp_path / f"{name}.toml").write_text(text)
        assert told in reject(*train(corpus, *arguments.split()), hint="")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_cuda_without_cuda(
        self, reject: Reject, corpus: Path, finished_run: Path, device: str
    ) -> None:
        told = f"--device {device}: this machine has no CUDA device"
        assert reject(*train(corpus, "--set", f"training.device={device}"), hint="cpu") == told
        for command in ("eval-perplexity", "generate"):
            assert reject(command, finished_run, "--device", device, hint="cpu") == told

    @pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x"])
    def test_no_such_device(self, reject: Reject, corpus: Path, device: str) -> None:
        arguments = train(corpus, "--set", f"training.device={device}")
        assert device in reject(*arguments, hint="auto, cpu, cuda")


class TestRunFolder:
    def test_another_config(
        self, reject: Reject, corpus: Path, finished_run: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(finished_run, tmp_path / "old")
        arguments = ["train", *tiny.flags(corpus), "--out", "old"]
        assert reject(*arguments, hint="--resume auto") == "old already holds a run"
        for resume in ("auto", "must"):
            error = reject(*arguments, "--resume", resume, "--seed", 1, hint="another --out")
            assert error == "old was made with another config: training.seed was 0, now 1"

    def test_checkpoint_cut_short_is_passed_over_and_named(
        self, corpus: Path, finished_run: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        run_dir = tmp_path / "old"
        shutil.copytree(finished_run, run_dir)
        weights = run_dir / "checkpoints" / "step_000020" / "model" / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        result = tinyohem("train", *tiny.flags(corpus), "--out", run_dir, "--resume", "auto")
        assert result.code == 0
        (warning,) = [line for line in result.err.splitlines() if line.startswith("warning: ")]
        assert str(weights.parents[1]) in warning
        assert f"resuming from {run_dir}/checkpoints/step_000015" in result.err
        assert weights.read_bytes() == whole

    def test_every_checkpoint_cut_short(
        self, reject: Reject, corpus: Path, finished_run: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(finished_run, tmp_path / "old")
        for path in (tmp_path / "old" / "checkpoints").glob("*/optimizer.safetensors"):
            path.write_bytes(path.read_bytes()[:-1])
        arguments = ["train", *tiny.flags(corpus), "--out=old", "--resume=auto"]
        error = reject(*arguments, hint="another --out")
        assert error == "every checkpoint in old/checkpoints is damaged"


class TestPools:
    @pytest.fixture
    def pool(self, finished_run: Path, tmp_path: Path, tinyohem: tiny.Command) -> Path:
        assert tinyohem("mine", finished_run, "--device=cpu", "--out", tmp_path / "pool").code == 0
        return tmp_path / "pool"

    def excess(self, corpus: Path, *more: object, **overrides: Any) -> list[object]:
        """Return the arguments of a training by excess loss over `pool`."""
        mining = ("--ohem-ratio=0.5", "--ohem-score=excess_loss", "--ohem-reference=pool")
        return [*train(corpus, **overrides), *mining, *more]

    def test_no_pool(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        told = "pool holds no pool that can be read: No such file or directory"
        assert reject(*self.excess(corpus), hint="tinyohem mine RUN") == told
        (tmp_path / "pool").mkdir()
        assert reject(*self.excess(corpus, "--dry-run"), hint="mine RUN") == told

    @pytest.mark.usefixtures("pool")
    def test_of_other_stories_windows_or_tokens(
        self, reject: Reject, corpus: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(corpus, other)
        lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
        (other / "train.jsonl").write_text("".join(lines[:-1]))
        tokenizer = {"tokenizer__vocab_size": 321}
        windows = {"training__seq_len": 16}
        for found, told in (
            (reject(*self.excess(other), hint="--dataset"), "with other tokens"),
            (reject(*self.excess(corpus, **tokenizer), hint="tokenizer"), "with other tokens"),
            (reject(*self.excess(corpus, **windows), hint="--seq-len 16"), "on other windows"),
        ):
            assert found == f"the pool in pool was mined {told} than those of this run"

    @pytest.mark.parametrize("damage", ["flip", "cut"])
    def test_a_damaged_shard(self, reject: Reject, corpus: Path, pool: Path, damage: str) -> None:
        shard = pool / "shard_0000000.f16.zst"
        content = bytearray(shard.read_bytes())
        content[1000] ^= 1
        shard.write_bytes(content if damage == "flip" else content[:1000])
        error = reject(*self.excess(corpus), hint="repeat the `tinyohem mine`")
        assert error.startswith("the pool's shard pool/shard_0000000.f16.zst is damaged: ")

    @pytest.mark.usefixtures("pool")
    def test_too_old(self, reject: Reject, corpus: Path) -> None:
        arguments = self.excess(corpus, "--pool-max-age=2k", training__steps=40)
        error = reject(*arguments, hint="--pool-refresh-every")
        assert error == (
            "the pool in pool was mined after 2,560 training tokens; at the end of this run it "
            "would be 2,560 tokens old, beyond ohem.pool_max_age = 2,000"
        )

    @pytest.mark.usefixtures("pool")
    def test_mining(self, reject: Reject, finished_run: Path, tmp_path: Path) -> None:
        mine = ("mine", finished_run, "--device=cpu", "--out")
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("mine")
        assert reject(*mine, "notes", hint="--out") == "notes is not empty and holds no pool"
        other = reject(*mine, "pool", "--seq-len=16", hint="choose another --out")
        assert other == "pool holds another pool: its context differs"
        error = reject("mine", "nowhere", "--out=new", hint="run folder")
        assert error.startswith("nowhere is no file or folder, and the Hub cannot be reached")
        error = reject(*mine, "new", "--dataset=nowhere.jsonl", hint="check the path")
        assert error == "there is no file or folder nowhere.jsonl"
        assert reject(*mine, "new", "--seq-len=99", hint="--seq-len 32 or less")
        assert not (tmp_path / "new").exists()


class TestModels:
    @pytest.mark.parametrize("command", ["eval-perplexity", "generate", "mine", "inspect"])
    def test_no_such_model(
        self, reject: Reject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        more = ["--story", 0] if command == "inspect" else []
        error = reject(command, "runs/nowhere", *more, hint="run folder")
        assert error.startswith("runs/nowhere is no file or folder, and the Hub cannot be reached")
        # What stands below a folder that is here is no Hub id.
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: 1 / 0)
        (tmp_path / "runs").mkdir()
        for name in ("runs/nowhere", "./nowhere", "runs/no/where"):
            error = reject(command, name, *more, hint="run folder")
            assert error == f"there is no file or folder {name}"

    def test_a_folder_of_runs(self, reject: Reject, finished_run: Path, tmp_path: Path) -> None:
        for name in ("topk-seed0", "full-seed0"):
            (tmp_path / "cmp" / name).mkdir(parents=True)
            shutil.copy(finished_run / "metrics.jsonl", tmp_path / "cmp" / name)
        for command in (["eval-perplexity"], ["mine"], ["generate"], ["inspect", "--story=0"]):
            error = reject(*command, "cmp", hint="one run inside, such as cmp/full-seed0")
            assert error == "cmp is a folder of 2 run(s)"

    def test_sequence_length_beyond_the_models(self, reject: Reject, finished_run: Path) -> None:
        before = tiny.snapshot(finished_run)
        error = reject("eval-perplexity", finished_run, "--seq-len", 64, hint="--seq-len 32")
        assert error == "a context of 64 tokens is beyond the model's 32"
        assert tiny.snapshot(finished_run) == before

    def test_no_data_set_to_score_on(self, reject: Reject, finished_run: Path) -> None:
        error = reject("eval-perplexity", finished_run / "model", hint="--dataset")
        assert error == "no data set to score on"

    def test_weights_cut_short(self, reject: Reject, finished_run: Path, tmp_path: Path) -> None:
        shutil.copytree(finished_run / "model", tmp_path / "model")
        weights = tmp_path / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        error = reject("generate", tmp_path / "model", hint="run folder")
        assert error.startswith("cannot load a language model from")

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
    @pytest.mark.parametrize("flag", ["eval-perplexity", "--init-from", "--tokenizer"])
    def test_files_that_git_lfs_did_not_fetch(
        self,
        reject: Reject,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        flag: str,
        name: str,
    ) -> None:
        shutil.copytree(finished_run / "model", tmp_path / "model")
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        (tmp_path / "model" / name).write_text(pointer)
        data = ("--dataset", corpus)
        arguments = ["train", *data, "--out", "run", flag, "model"]
        if flag == "eval-perplexity":
            arguments = [flag, "model", *data]
        error = reject(*arguments, hint="git lfs pull")
        assert error == f"model/{name} is a git-lfs pointer, the content was not fetched"

    def test_an_unfinished_run(self, reject: Reject, finished_run: Path, tmp_path: Path) -> None:
        shutil.copytree(finished_run, tmp_path / "old")
        shutil.rmtree(tmp_path / "old" / "model")
        for command in ("eval-perplexity", "generate"):
            error = reject(command, "old", hint="old/checkpoints/latest")
            assert error == "the run old has not finished"

    def test_a_prompt_beyond_the_context(self, reject: Reject, finished_run: Path) -> None:
        error = reject("generate", finished_run, "--prompt", "word " * 40, hint="shorten it")
        assert error.startswith("prompt 1 has ")


class TestTarget:
    @pytest.fixture
    def target(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A file of 60 stories, none of which is in the corpus."""
        stories = islice(sample_stories("train"), 200, 260)
        return tiny.write_stories(tmp_path_factory.mktemp("target") / "good.jsonl", stories)

    def test_too_few_stories(self, reject: Reject, corpus: Path, tmp_path: Path) -> None:
        stories = list(islice(sample_stories("train"), 49))
        tiny.write_stories(tmp_path / "few.jsonl", stories + stories[:20])
        error = reject(*train(corpus, "--target", "few.jsonl"), hint="at least 50")
        assert error.startswith("the target few.jsonl holds 49 distinct stories, too few")

    @pytest.mark.parametrize("how", [{}, {"target__keep": "1"}])
    def test_the_target_is_the_pool(
        self, reject: Reject, corpus: Path, how: dict[str, str]
    ) -> None:
        pool = corpus / "train.jsonl"
        more = (
            "--target",
            str(pool),
            *(f"--set={k.replace('__', '.')}={v}" for k, v in how.items()),
        )
        error = reject(*train(pool), *more, hint="other stories")
        assert error == f"every story of {pool} that passes is one of the target's own"

    def test_another_script(self, reject: Reject, tmp_path: Path, target: Path) -> None:
        stories = [f"Жил-был кот номер {n}. Он любил молоко и спал весь день." for n in range(80)]
        tiny.write_stories(tmp_path / "pool.jsonl", stories)
        told = "is written in LATIN letters, pool.jsonl in CYRILLIC ones"
        for how in ("keep=auto", "keep=0.5", "score=reference_loss"):
            pool = Path("pool.jsonl")
            more = ("--target", target, f"--set=target.{how}")
            assert told in reject(*train(pool), *more, hint="the kind of stories that the pool")

    def test_nothing_passes(self, reject: Reject, tmp_path: Path, target: Path) -> None:
        stories = [f"return value_{n} import class yield lambda assert {n}" for n in range(80)]
        tiny.write_stories(tmp_path / "pool.jsonl", stories)
        error = reject(*train(Path("pool.jsonl")), "--target", target, hint="target.keep=0.2")
        assert error.startswith("no story of pool.jsonl passes: ")
        assert "█" in error
        assert "nats per word, line at " in error

    def test_scores_of_another_target(
        self, reject: Reject, corpus: Path, target: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        other = tiny.write_stories(tmp_path / "b.jsonl", islice(sample_stories("train"), 300, 360))
        data = ("--dataset", corpus, "--target", other)
        assert tinyohem("score-difficulty", *data, "--out", "scores").code == 0
        more = ("--target", target, "--set=target.scores=scores")
        assert "target" in reject(*train(corpus), *more, hint="score")

    @pytest.mark.parametrize(
        ("settings", "told", "hint"),
        [
            (["target.keep=1.5"], "target.keep = 1.5: neither auto nor a share", "such as 0.5"),
            (["target.keep=0"], "target.keep = 0: neither auto nor a share", "such as 0.5"),
            (["target.keep=nan"], "target.keep = nan: neither auto nor a share", "such as 0.5"),
            (["target.quantile=1"], "target.quantile = 1: ", "recipes show"),
            (["target.keep=0.5", "target.quantile=0.1"], "the line of keep = auto only", "--set"),
            (["target.keep=1", "target.when=finish"], "nothing to finish with", "--set"),
            (["target.keep=1", "target.score=reference_gain"], "every story unscored", "--set"),
            (["target.stories=null", "target.keep=0.5"], "keep needs stories of the", "--set"),
            (["target.when=finish", "training.seconds=9"], "nothing fixes the step", "--set"),
            (["target.when=start", "curriculum.enabled=true"], "both choose windows", "--set"),
            (
                ["curriculum.enabled=true", "curriculum.pacing=filter", "curriculum.keep=0-80"],
                "curriculum.pacing = filter and a target both choose stories",
                "--set",
            ),
        ],
    )  # fmt: skip
    def test_keys_that_contradict(
        self, reject: Reject, corpus: Path, target: Path, settings: list[str], told: str, hint: str
    ) -> None:
        steps = ["--set=training.steps=null"] if "training.seconds=9" in settings else []
        flags = [f"--set={setting}" for setting in settings]
        error = reject(*train(corpus), "--target", target, *steps, *flags, hint=hint)
        assert told in error

    @pytest.mark.parametrize("keep", ["90-10", "0-101", "0-", "80", "a-b", "5-5"])
    def test_a_range_of_percentiles(self, reject: Reject, corpus: Path, keep: str) -> None:
        more = ("--curriculum", "--pacing", "filter", f"--set=curriculum.keep={keep}")
        error = reject(*train(corpus), *more, hint="such as 0-80")
        assert error == f"curriculum.keep = {keep!r}: no range of percentiles" or keep == "80"

    def test_a_filter_without_a_range(self, reject: Reject, corpus: Path) -> None:
        error = reject(*train(corpus), "--curriculum", "--pacing", "filter", hint="--set")
        assert error == "[curriculum]: pacing = filter needs a range of percentiles: keep = 0-80"
