"""Tuning other architectures: the loss is theirs, runs resume and load, misfits are told."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_llama
import tiny_step
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tinyohem.config.run import RunConfig, validate_config
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json
from tinyohem.models.causal_lm import Trunk, load_causal_lm
from tinyohem.models.llama import parameter_count
from tinyohem.models.pretrained import check_losses, keeps_stories_apart, load_pretrained
from tinyohem.models.trunk_passes import run_all
from tinyohem.training.dry_run import dry_run
from tinyohem.training.loop import train
from tinyohem.training.mine_run import mine_run
from tinyohem.training.optim import build_optimizers

VOCAB, POSITIONS = 300, 48
ROTARY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
GROUPED = {**ROTARY, "num_key_value_heads": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "gpt_neox": ROTARY,
    "llama": GROUPED,
    "gemma": {**GROUPED, "head_dim": 4},
    "mixtral": {**GROUPED, "num_local_experts": 2},
    "gemma2": {**GROUPED, "head_dim": 4},
    "cohere": ROTARY,
    "granite": {**ROTARY, "logits_scaling": 8.0},
    "phi": ROTARY,
}
# Their tokens see the stories before their own: one makes its mask from no positions, one recurs.
ACROSS: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}


def build(kind: str, vocab_size: int = VOCAB, **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=vocab_size,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        **(SHAPES | ACROSS)[kind],
        **options,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a model of this kind with a tokenizer; each is made once."""
    tokenizer = train_tokenizer(islice(sample_stories("train"), 60), VOCAB)
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            build(kind).save_pretrained(made[kind])
            tokenizer.save_pretrained(made[kind])
        return made[kind]

    return folder


def tuning(corpus: Path, init_from: Path | str, **overrides: Any) -> RunConfig:
    """Return a run of six steps from a model, with the defaults that such runs have."""
    training = {"steps": 6, "batch_size": 4, "seq_len": 32, "device": "cpu", "save_every": 3}
    tree: dict[str, Any] = {
        "data": {"dataset": str(corpus)},
        "model": {"init_from": str(init_from)},
        "training": {**training, "eval_tokens": 1_000},
    }
    for name, value in overrides.items():
        section, _, key = name.partition("__")
        tree.setdefault(section, {})[key] = value
    return validate_config(tree)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "gemma", "mixtral"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_step_is_the_models_own_loss(kind: str, ratio: float) -> None:
    """Against the gradient of `model(labels=…)`, and of a mask on its loss."""
    model = build(kind, tiny_step.VOCAB)
    check_losses(model, kind)
    ids, labels = tiny_step.tokens(ignored=False)
    if ratio == 1:
        whole = torch.cat([ids, labels[:, -1:]], dim=1)
        expected_loss = model(input_ids=whole, labels=whole).loss
    else:
        every = tiny_step.losses(model, ids, labels).flatten()
        expected_loss = every.topk(every.numel() // 2).values.mean()
    expected_loss.backward()
    expected = tiny_step.gradient(model)
    stats = tiny_step.step(model, ids, labels, ratio, tiny_step.miner(), number=1)
    torch.testing.assert_close(tiny_step.gradient(model), expected, rtol=1e-4, atol=1e-6)
    assert stats.loss_selected.item() == pytest.approx(expected_loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "gemma", "mixtral"])
def test_a_token_sees_its_own_story_alone(kind: str) -> None:
    model, (input_ids, _) = build(kind), tiny_step.tokens()
    input_ids[:, ::5] = 0
    whole = Trunk.of(model.get_decoder(), story_start=0)
    found, _ = run_all(whole, input_ids, "full")
    expected = tiny_llama.apart(model, input_ids, story_start=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_most_models_keep_stories_apart(kind: str) -> None:
    assert keeps_stories_apart(build(kind), story_start=0)


@pytest.mark.parametrize("kind", ACROSS)
def test_a_model_that_looks_across_stories_is_tuned_in_whole_windows_alone(
    kind: str, saved: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="sees the stories before its own") as caught:
        train(tuning(corpus, saved(kind)), tmp_path / "run")
    assert "training.attention=window" in str(caught.value.hint)
    run, _ = train(tuning(corpus, saved(kind), training__attention="window"), tmp_path / "run")
    assert run.finished


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_a_pool_says_what_its_model_saw(
    kind: str, saved: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    data = {"dataset": str(corpus)}
    mined = mine_run(str(saved(kind)), tmp_path / "pool", data=data, seq_len=32, device="cpu")
    told = {"gpt2": "stories in windows", "bloom": "windows"}
    assert mined.manifest.context.rule == told[kind]


def test_only_a_llama_runs_its_kept_tokens_alone() -> None:
    shares = {kind: Trunk.of(build(kind).get_decoder()).shares_attention for kind in SHAPES}
    assert [kind for kind, can in shares.items() if can] == ["llama"]
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    stretched = build("llama", rope_parameters=dynamic)
    assert not Trunk.of(stretched.get_decoder()).shares_attention


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gemma2", "Gemma2ForCausalLM.* computes its loss otherwise"),  # caps its logits
        ("cohere", "computes its loss otherwise"),  # scales them
        ("granite", "computes its loss otherwise"),
        ("phi", "PhiForCausalLM.* has a head with a bias"),
    ],
)
def test_another_loss_is_refused_and_the_weights_are_put_back(kind: str, message: str) -> None:
    model = build(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        check_losses(model, kind)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_muon_takes_the_matrices_of_the_trunk_alone() -> None:
    for kind, number in (("gpt2", 2 * 4), ("gpt_neox", 2 * 4)):
        model = build(kind)
        optim = tuning(Path("c"), "m", optim__optimizer="muon").optim
        adamw, muon = build_optimizers(model, optim)
        names = {id(p): name for name, p in model.named_parameters()}
        by_muon = [names[id(p)] for p in muon.param_groups[0]["params"]]
        assert len(by_muon) == number
        assert not any(part in name for name in by_muon for part in ("wte", "wpe", "emb", "head"))
        assert sum(len(g["params"]) for g in adamw.param_groups) + number == len(names)


class TestConfig:
    def test_a_tuned_run_has_gentler_defaults(self) -> None:
        config = validate_config({"model": {"init_from": "m"}})
        assert (config.optim.optimizer, config.optim.lr) == ("adamw", 5e-5)
        assert (config.training.tokens, config.tokenizer.name) == ("1epoch", "m")
        assert validate_config(config.model_dump()) == config

    def test_what_the_user_sets_stays(self) -> None:
        tree = {"model": {"init_from": "m"}, "optim": {"lr": 1e-3}, "training": {"tokens": "4M"}}
        config = validate_config(tree)
        assert (config.optim.optimizer, config.optim.lr) == ("adamw", 1e-3)
        assert config.training.tokens == "4M"

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"model": {"init_from": "m", "preset": "2m"}}, "leave out preset"),
            ({"model": {"init_from": "m", "num_layers": 3}}, "leave out num_layers"),
            (
                {"model": {"init_from": "m"}, "tokenizer": {"name": "other"}},
                "leave out tokenizer.name",
            ),
        ],
    )
    def test_shape_and_tokenizer_are_the_models_own(
        self, tree: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            validate_config(tree)


class TestRuns:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("gpt2", {"ohem__ratio": 0.5}),
            ("gpt_neox", {"optim__optimizer": "muon", "training__micro_batch_size": 2}),
            ("llama", {"ohem__ratio": 0.5, "ohem__backward": "pruned"}),
        ],
    )
    def test_it_resumes_exactly_and_loads(
        self,
        corpus: Path,
        tmp_path: Path,
        saved: Callable[..., Path],
        kind: str,
        options: dict[str, Any],
    ) -> None:
        config = tuning(corpus, saved(kind), **options)
        heard = tiny.Listener()
        run, perplexity = train(config, tmp_path / "whole", progress=heard)
        assert any(f"starting from {saved(kind)}" in note for note in heard.notes)
        train(tuning(corpus, saved(kind), training__stop_at_step=3, **options), tmp_path / "parts")
        _, again = train(config, tmp_path / "parts", resume="must")
        assert again == perplexity
        assert tiny.saved_hashes(tmp_path / "parts", 6) == tiny.saved_hashes(tmp_path / "whole", 6)

        folder = tmp_path / "whole" / "model"
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert type(loaded) is type(build(kind))
        start, end = load_causal_lm(str(saved(kind))).state_dict(), loaded.state_dict()
        assert any(not torch.equal(start[name], end[name]) for name in start)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer_hash(tokenizer) == tokenizer_hash(load_tokenizer(str(saved(kind))))
        assert tiny.evaluate(tmp_path / "whole") == perplexity
        record = read_json(tmp_path / "whole" / "config.json")
        assert record["num_parameters"] == run.model.num_parameters()
        assert record["config"]["optim"]["lr"] == 5e-5

    def test_it_learns(self, corpus: Path, tmp_path: Path, saved: Callable[..., Path]) -> None:
        before = tiny.evaluate(saved("gpt2"), dataset=str(corpus), seq_len=32)
        _, after = train(tuning(corpus, saved("gpt2"), optim__lr=1e-2), tmp_path / "run")
        assert after is not None
        assert after.loss < before.loss - 0.3

    def test_every_command_accepts_a_tuned_run(
        self,
        corpus: Path,
        tmp_path: Path,
        saved: Callable[..., Path],
        tinyohem: tiny.Command,
    ) -> None:
        run, small = tmp_path / "run", ("--set=training.seq_len=32", "--set=training.batch_size=4")
        flags = ("--init-from", saved("gpt2"), "--dataset", corpus, "--device=cpu", *small)
        done = tinyohem("train", *flags, "--steps=2", "--out", run, "--json")
        assert done.code == 0, done.err
        assert "adamw with a learning rate of 5e-05" in done.err
        scored = json.loads(tinyohem("eval-perplexity", run, "--device=cpu", "--json").out)
        assert scored["loss"] == json.loads(done.out)["loss"]
        prompt = ("--prompt", "Once", "--max-new-tokens=5", "--device=cpu")
        assert tinyohem("generate", run, *prompt).out.startswith("Once")
        assert tinyohem("inspect", run, "--story=0", "--device=cpu").code == 0
        pool = tmp_path / "pool"
        assert tinyohem("mine", run, "--out", pool, "--device=cpu", "--json").code == 0
        refused = tinyohem("mine", saved("gemma2"), "--dataset", corpus, "--out", tmp_path / "no")
        assert (refused.code, "otherwise" in refused.err) == (2, True)

    def test_it_starts_from_a_run(self, corpus: Path, finished_run: Path, tmp_path: Path) -> None:
        config = tuning(corpus, finished_run, optim__lr=1e-9)
        run, perplexity = train(config, tmp_path / "run")
        assert perplexity is not None
        assert perplexity.loss == pytest.approx(tiny.evaluate(finished_run).loss, abs=1e-4)
        assert run.model.config.hidden_size == 16

    def test_changed_weights_under_the_same_name_are_refused(
        self, corpus: Path, tmp_path: Path, saved: Callable[..., Path]
    ) -> None:
        build("gpt2").save_pretrained(tmp_path / "m")
        load_tokenizer(str(saved("gpt2"))).save_pretrained(tmp_path / "m")
        out = tmp_path / "run"
        train(tuning(corpus, tmp_path / "m", training__stop_at_step=3), out)
        other = build("gpt2")
        with torch.no_grad():
            other.transformer.ln_f.weight.mul_(2)
        other.save_pretrained(tmp_path / "m")
        with pytest.raises(InputError, match="began from other weights"):
            train(tuning(corpus, tmp_path / "m"), out, resume="must")

    def test_a_dry_run_counts_an_epoch(self, corpus: Path, saved: Callable[..., Path]) -> None:
        outline = dry_run(tuning(corpus, saved("gpt2"), training__steps=None))
        assert outline.epochs == pytest.approx(1, abs=0.02)
        assert outline.num_parameters == build("gpt2").num_parameters()


class TestMisfits:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"training__seq_len": POSITIONS + 1}, "beyond the 48 positions"),
            ({"ohem__ratio": 0.5, "ohem__backward": "pruned"}, "Llama models alone.*GPT2LMHead"),
        ],
    )
    def test_settings_that_do_not_fit_the_model_are_refused(
        self,
        corpus: Path,
        tmp_path: Path,
        saved: Callable[..., Path],
        options: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(InputError, match=message):
            train(tuning(corpus, saved("gpt2"), **options), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_vocabulary_beyond_the_embedding_is_refused(
        self, corpus: Path, tmp_path: Path, saved: Callable[..., Path]
    ) -> None:
        build("gpt2", VOCAB - 1).save_pretrained(tmp_path)
        load_tokenizer(str(saved("gpt2"))).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="has 300 tokens, its model only 299"):
            load_pretrained(tuning(corpus, tmp_path))

    def test_pickled_missing_or_foreign_weights_are_refused(
        self, corpus: Path, tmp_path: Path, saved: Callable[..., Path]
    ) -> None:
        model = build("gpt_neox")
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match="cannot load a language model"):
            load_pretrained(tuning(corpus, tmp_path))

        model.gpt_neox.save_pretrained(tmp_path)  # a trunk without its head
        with pytest.raises(InputError, match="its files lack"):
            load_pretrained(tuning(corpus, tmp_path))

        own_code = read_json(saved("gpt2") / "config.json")
        own_code |= {"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}
        (tmp_path / "config.json").write_text(json.dumps(own_code))
        (tmp_path / "c.py").write_text("raise SystemExit('ran')")
        with pytest.raises(InputError, match="cannot load a language model"):
            load_pretrained(tuning(corpus, tmp_path))


def test_the_count_is_that_of_the_model(corpus: Path, saved: Callable[..., Path]) -> None:
    for kind in ("gpt2", "gpt_neox"):
        config = tuning(corpus, saved(kind)).model
        assert parameter_count(config, VOCAB) == build(kind).num_parameters()
        assert hash_file(saved(kind) / "model.safetensors")
