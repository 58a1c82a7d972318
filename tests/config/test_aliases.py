"""Unknown names: suggestions by meaning, then by spelling, and former names."""

import difflib
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.config.aliases import ALIASES, meant_key, suggest_key
from tinyohem.config.ohem import OhemConfig
from tinyohem.config.recipes import load_config
from tinyohem.config.run import RunConfig, known_keys, validate_config
from tinyohem.errors import InputError, RenamedKeyWarning
from tinyohem.ohem import OhemLoss

KNOWN = known_keys()
KEYS = [f"{section}.{key}" for section, keys in KNOWN.items() for key in keys]

# As transformers' TrainingArguments, nanoGPT, Lightning, litgpt and torchtitan spell them.
OTHERS = {
    "learning_rate": "optim.lr",
    "max_lr": "optim.lr",
    "min_lr": "optim.min_lr_ratio",
    "warmup_steps": "optim.warmup_fraction",
    "warmup": "optim.warmup_fraction",
    "lr_scheduler_type": "optim.schedule",
    "wd": "optim.weight_decay",
    "adam_beta2": "optim.beta2",
    "grad_clip": "optim.max_grad_norm",
    "gradient_clip_val": "optim.max_grad_norm",
    "batch": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "block_size": "training.seq_len",
    "context_length": "training.seq_len",
    "max_steps": "training.steps",
    "num_steps": "training.steps",
    "max_iters": "training.steps",
    "epochs": "training.tokens",
    "num_train_epochs": "training.tokens",
    "eval_interval": "training.eval_every",
    "eval_steps": "training.eval_every",
    "logging_steps": "training.log_every",
    "save_steps": "training.save_every",
    "bf16": "training.precision",
    "dtype": "training.precision",
    "torch_compile": "training.compile",
    "n_layer": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "n_head": "model.num_heads",
    "d_model": "model.hidden_size",
    "n_embd": "model.hidden_size",
    "d_ff": "model.intermediate_size",
    "report_to": "tracking.wandb",
}


def refusal(*assignments: str) -> str:
    """Return the message that `--set` is refused with."""
    with pytest.raises(InputError) as refused:
        load_config(assignments=assignments)
    return refused.value.message


class TestKeys:
    def test_an_alias_is_no_key_and_names_one(self) -> None:
        for alias, key in ALIASES.items():
            assert key in KEYS, alias
            assert f"{key.partition('.')[0]}.{alias}" not in KEYS, alias

    @pytest.mark.parametrize(("other", "key"), OTHERS.items())
    def test_an_alias_is_understood_with_any_section_and_without(
        self, other: str, key: str
    ) -> None:
        for section in (*KNOWN, "optimizer", "trainer"):
            if (name := f"{section}.{other}") not in KEYS:
                message = refusal(f"{name}=1")
                assert f"; did you mean {key}" in message, message
        assert f"; did you mean {key}" in refusal(f"{other}=1")

    @pytest.mark.parametrize("key", KEYS)
    def test_a_key_of_another_section_is_found_there(self, key: str) -> None:
        home, _, name = key.partition(".")
        if sum(name in keys for keys in KNOWN.values()) == 1 and name not in ALIASES:
            for section in KNOWN.keys() - {home}:
                assert meant_key(f"{section}.{name}", KNOWN) == key
            assert refusal(f"{name}=1").startswith(f"'{name}' names no key; did you mean {key}?")

    def test_a_suggestion_names_a_different_unit(self) -> None:
        assert "training.tokens (such as 4M or 3epochs)?" in refusal("training.epochs=3")
        assert "optim.warmup_fraction (a share of all steps)?" in refusal("optim.warmup_steps=3")
        assert "training.tokens?" in refusal("optim.tokens=3")

    @given(st.sampled_from(KEYS), st.data())
    def test_a_missing_letter_is_found_by_spelling(self, key: str, data: st.DataObject) -> None:
        section, _, name = key.partition(".")
        at = data.draw(st.integers(0, len(name) - 1))
        slip = name[:at] + name[at + 1 :]
        closest = difflib.get_close_matches(slip, KNOWN[section], n=1)
        if closest == [name] and meant_key(f"{section}.{slip}", KNOWN) is None:
            assert suggest_key(f"{section}.{slip}", KNOWN) == f"; did you mean {key}?"

    def test_an_unknown_name_lists_the_keys_of_its_section(self) -> None:
        assert refusal("data.zzz=1") == (
            "unknown key data.zzz; [data] has dataset, valid, text_field, clean, licence"
        )
        assert refusal("zzz.yyy=1") == (
            "unknown section [zzz]; there are " + ", ".join(RunConfig.model_fields)
        )

    @pytest.mark.parametrize(
        ("assignment", "told"),
        [
            ("optimizer.lr=1", "unknown section [optimizer]; did you mean optim?"),
            ("train.steps=1", "unknown section [train]; did you mean training?"),
            ("train.lr=1", "unknown section [train]; did you mean optim.lr?"),
            ("training.weight_dcay=1", "unknown key training.weight_dcay; did you mean optim."),
        ],
    )
    def test_section_and_key_are_guessed_together(self, assignment: str, told: str) -> None:
        assert refusal(assignment).startswith(told)


# What keys were called in the version before, with a value that is not the default.
OLD = {
    "interrupt": ("full_step_every", 4),
    "nms_key": ("dedup", "bigram"),
    "nms_window": ("dedup_window", 3),
    "nms_max": ("dedup_max", 2),
    "hard_windows": ("hard_window_share", 0.5),
}
POOL = {"reference": "pool"}  # what the last one needs


class TestOldNames:
    @pytest.mark.parametrize("old", OLD)
    def test_old_names_work_everywhere_with_a_warning(
        self, old: str, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        new, value = OLD[old]
        want = load_config(overrides={f"ohem.{new}": value, "ohem.reference": "pool"})
        recipe = tmp_path / "old.toml"
        recipe.write_text(f"[ohem]\n{old} = {value!r}\nreference = 'pool'\n")
        for arguments in (
            {"recipe": str(recipe)},
            {"assignments": [f"ohem.{old}={value}", "ohem.reference=pool"]},
            {"overrides": {f"ohem.{old}": value, "ohem.reference": "pool"}},
        ):
            with pytest.warns(RenamedKeyWarning, match=f"ohem.{old} is now ohem.{new};"):
                assert load_config(**arguments) == want
        shown = tinyohem("recipes", "show", recipe)
        assert f"\n{new} = " in shown.out
        assert shown.err.count(f"ohem.{old} is now ohem.{new}; ") == 1

    @pytest.mark.parametrize("old", OLD)
    def test_old_names_work_in_python(self, old: str) -> None:
        new, value = OLD[old]
        assert getattr(OhemConfig(**{old: value}, **POOL), new) == value
        if new != "hard_window_share":  # which is our own loop's
            with pytest.warns(RenamedKeyWarning):
                assert getattr(OhemLoss(**{old: value}).config, new) == value

    def test_old_names_in_the_record_of_a_run_give_no_warning(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        tree = load_config(overrides={"ohem.dedup": "bigram", "ohem.full_step_every": 3})
        record = tree.model_dump()
        record["ohem"] = {
            {new: old for old, (new, _) in OLD.items()}.get(key, key): value
            for key, value in record["ohem"].items()
        }
        assert set(OLD) < set(record["ohem"])
        assert validate_config(record) == RunConfig.model_validate(record) == tree
        assert len(recwarn) == 0

    @pytest.mark.filterwarnings("ignore::tinyohem.errors.RenamedKeyWarning")
    def test_the_last_of_two_names_wins(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old.toml", tmp_path / "new.toml"
        old.write_text("[ohem]\nnms_key = 'bigram'\n")
        new.write_text(f"extends = '{old}'\n[ohem]\ndedup = 'position'\n")
        assert load_config(str(old), {}, ["ohem.dedup=none"]).ohem.dedup == "none"
        assert load_config(str(new)).ohem.dedup == "position"
        assert load_config(str(new), {}, ["ohem.nms_key=none"]).ohem.dedup == "none"


class TestOptions:
    @pytest.mark.parametrize(
        ("command", "told"),
        [
            ("train --learning-rate 1", "--learning-rate; did you mean --lr?"),
            ("train --learning_rate=1", "--learning_rate; did you mean --lr?"),
            ("compare --max-lr 1", "--max-lr; did you mean --lr?"),
            ("train --batch 1", "--batch; did you mean --batch-size?"),
            ("train --batch_size 1", "--batch_size; did you mean --batch-size?"),
            ("train --max-steps 1", "--max-steps; did you mean --steps?"),
            ("train --epochs 3", "did you mean --tokens (such as 4M or 3epochs)?"),
            ("train --context-length 3", "did you mean --seq-len?"),
            ("eval-perplexity x --context-length 3", "did you mean --seq-len?"),
            ("train --eval-interval 3", "did you mean --eval-every?"),
            ("train --model-size 2m", "did you mean --model?"),
            ("train --keep-ratio 1", "did you mean --ohem-ratio?"),
            ("train --n-layer 1", "did you mean --set model.num_layers=…?"),
            ("train --weight-decay 1", "did you mean --set optim.weight_decay=…?"),
            ("compare --ohem-ratio 1", "did you mean --set ohem.ratio=…?"),
            ("compare --pacing root", "did you mean --set curriculum.pacing=…?"),
            ("compare --tokenizer x", "did you mean --set tokenizer.name=…?"),
            ("bench --precision medium", "did you mean --set training.precision=…?"),
            ("train --output-dir x", "did you mean --out?"),
            ("train --sead 1", "did you mean --seed?"),
            ("inspect x --stori 1", "did you mean --story?"),
        ],
    )
    def test_an_unknown_option_gets_a_suggestion(
        self, tinyohem: tiny.Command, command: str, told: str
    ) -> None:
        result = tinyohem(*command.split())
        assert result.code == 2
        assert result.err.splitlines()[0].endswith(told)

    def test_an_option_without_a_near_name_is_refused_without_a_suggestion(
        self, tinyohem: tiny.Command
    ) -> None:
        assert tinyohem("train", "--zzz").err == (
            "error: No such option: --zzz\nhint: add --help to see the options\n"
        )
