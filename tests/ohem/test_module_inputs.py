"""What `OhemLoss` and `trainer_loss` refuse, in one line that says what to do, and how it shows."""

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_step import LENGTH, SELECTS, VOCAB, model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.models.causal_lm import trunk
from tinyohem.ohem import OhemLoss, trainer_loss

ROWS, TOKENS, SIZE = 2, 4, 5


def states(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=rng).to(dtype).requires_grad_()


def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def told(error: pytest.ExceptionInfo[ValueError]) -> str:
    """Return the message, which is one line and no library's."""
    message = str(error.value)
    assert "\n" not in message
    assert "pydantic" not in message
    assert "Input should" not in message
    return message


class Asked(TorchFunctionMode):
    """Note what would make a GPU's host wait for numbers."""

    WAITS = (Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.nonzero, torch.nonzero)

    def __init__(self) -> None:
        super().__init__()
        self.by: list[Any] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.by += [function] if function in self.WAITS else []
        return function(*args, **(kwargs or {}))


class TestLabels:
    @settings(max_examples=60)
    @given(st.data())
    def test_a_foreign_label_is_named_wherever_it_stands(self, data: st.DataObject) -> None:
        """With a head and without, at every ratio, in training and evaluation."""
        with_head = data.draw(st.booleans(), "head")
        number = VOCAB if with_head else SIZE
        token = st.integers(0, number - 1) | st.just(IGNORE_INDEX)
        foreign = st.integers(-(2**40), -1) | st.integers(number, 2**40)
        wrong = data.draw(foreign.filter(lambda n: n != IGNORE_INDEX), "wrong")
        row, at = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, TOKENS - 1))
        labels = torch.tensor(
            data.draw(st.lists(token, min_size=ROWS * TOKENS, max_size=ROWS * TOKENS), "labels")
        ).view(ROWS, TOKENS)
        select = data.draw(st.sampled_from(sorted(SELECTS.keys() - {"mixed"})), "select")
        weight = data.draw(st.sampled_from(["none", "ghm", "class_balanced"]), "weight")
        ohem = OhemLoss(
            select=select, weight=weight, class_counts=torch.ones(number), **SELECTS[select]
        )
        ohem.train(data.draw(st.booleans(), "training"))
        given = (states(ROWS, TOKENS, SIZE), labels, states(VOCAB, SIZE) if with_head else None)
        ratio = data.draw(st.sampled_from([0.3, 1.0]), "ratio")
        assert ohem(*given, keep_ratio=ratio).isfinite()
        labels[row, at] = wrong
        with pytest.raises(
            ValueError, match=f"label {wrong} of token {at} in sequence {row} "
        ) as e:
            ohem(*given, keep_ratio=ratio)
        assert ("write -100" if wrong < 0 else "the head's weight") in told(e)

    @pytest.mark.parametrize("ratio", [0.5, 1.0])
    @pytest.mark.parametrize("select", ["topk", "random", "importance"])
    def test_checking_labels_adds_no_device_synchronisation(
        self, select: str, ratio: float
    ) -> None:
        """A training call waits once: for how many tokens are kept, and for this with it."""
        ohem = OhemLoss(select=select)
        with Asked() as asked:
            ohem(states(2, 4, SIZE), zeros(2, 4), keep_ratio=ratio).backward()
        assert asked.by == [Tensor.tolist]

    def test_a_step_without_valid_labels_is_not_nan(self) -> None:
        """Where nothing counts in the whole step the Trainer's number of items is 0."""
        labels = zeros(1, 4) + IGNORE_INDEX
        for number in (0, torch.tensor(0)):
            loss = OhemLoss()(states(1, 4, SIZE), labels, keep_ratio=0.5, num_items=number)
            assert loss == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states_BTD": states(2, 3, SIZE)}, "one label for each state"),
        ({"labels_BT": zeros(2, 3)}, "one label for each state"),
        ({"states_BTD": states(4, SIZE), "labels_BT": zeros(4)}, r"\[None\] makes a batch"),
        ({"labels_BT": zeros(2, 4, 1)}, "one label for each state"),
        ({"labels_BT": zeros(2, 4).int()}, r"labels are torch.int32: .*labels\.long\(\)"),
        ({"labels_BT": zeros(2, 4).float()}, "labels are torch.float32: pass token ids as int64"),
        ({"labels_BT": zeros(2, 4).bool()}, "labels are torch.bool"),
        ({"labels_BT": [[0] * 4] * 2}, "labels_BT is a list: pass a tensor"),
        ({"labels_BT": None}, "labels_BT is a NoneType"),
        ({"states_BTD": zeros(2, 4, SIZE)}, "states are torch.int64: pass hidden states or logits"),
        ({"states_BTD": SimpleNamespace()}, "states_BTD is a .*last_hidden_state or its logits"),
        ({"head_VD": nn.Linear(SIZE, VOCAB)}, r"head_VD is a Linear: .*embeddings\(\)\.weight"),
        ({"head_VD": states(SIZE, VOCAB)}, r"head \(5, 23\) takes no states of size 5"),
        ({"head_VD": states(SIZE)}, r"head \(5,\) takes no states"),
        ({"states_BTD": states(2, 4, VOCAB)}, "takes no states of size 23.*logits need no head"),
        ({"head_VD": states(VOCAB, SIZE, dtype=torch.bfloat16)}, "the head is torch.bfloat16"),
        ({"labels_BT": torch.zeros(2, 4, device="meta")}, "labels_BT is on meta"),
        ({"reference_BT": states(4)}, r"reference_BT \(4,\) has not the shape of the labels"),
        ({"reference_BT": 3.5}, "reference_BT is a float"),
        ({"input_ids_BT": zeros(2, 5)}, r"input_ids_BT \(2, 5\) has not the shape"),
        ({"keep_ratio": 0.0}, r"keep_ratio = 0.0 is outside \(0, 1\]"),
        ({"keep_ratio": 1.5}, "keep_ratio = 1.5"),
        ({"keep_ratio": float("nan")}, "keep_ratio = nan"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_mismatched_arguments_are_refused(
    change: dict[str, Any], message: str, training: bool
) -> None:
    fitting = {
        "states_BTD": states(2, 4, SIZE),
        "labels_BT": zeros(2, 4),
        "head_VD": states(VOCAB, SIZE),
        "keep_ratio": 0.5,
    }
    ohem = OhemLoss().train(training)
    assert ohem(**fitting).isfinite()
    with pytest.raises(ValueError, match=message) as error:
        ohem(**{**fitting, **change})
    told(error)


def test_autocast_takes_a_head_of_another_type() -> None:
    low, head = states(2, 4, SIZE, dtype=torch.bfloat16), states(VOCAB, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert OhemLoss()(low, zeros(2, 4), head, keep_ratio=0.5).isfinite()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ratio": 2}, r"ratio = 2 is above 1\.0: name a share of the tokens in \(0, 1\]"),
            ({"ratio": 0}, r"ratio = 0 is not above 0\.0: name a share"),
            ({"ratio": float("nan")}, "ratio = nan is not finite: name a share"),
            ({"ratio": "half"}, "ratio = 'half' is no number"),
            ({"ratio": None}, "ratio = None is no number"),
            ({"select": "hardest"}, "select = 'hardest' is none of 'topk', 'threshold', 'band'"),
            ({"ghm_bins": 1.5}, "ghm_bins = 1.5 is no whole number"),
            ({"ghm_bins": "x"}, "ghm_bins = 'x' is no whole number"),
            ({"ghm_bins": []}, r"ghm_bins = \[\] is no whole number"),
            ({"full_step_every": 1}, "full_step_every = 1 is below 2"),
            ({"prob_threshold": 1.0}, "prob_threshold = 1.0 is not below 1"),
            ({"queue_steps": 2**21}, "queue_steps = 2097152 is above 1048576"),
            ({"schedule": ["constant"]}, r"schedule = \['constant'\] is no text"),
            ({"schedule": "sometimes"}, "'sometimes' is neither a schedule's name nor .*: use "),
            ({"mix": "a=1"}, "mix 'a=1': 'a' is no source"),
            ({"pool_max_age": "2x"}, "pool_max_age = '2x': write a count of tokens such as 1M"),
            ({"select": "threshold"}, "select threshold goes with loss_threshold"),
            ({"xyzzy": 1}, "unknown option xyzzy; OhemConfig.model_fields has them all"),
            ({"selct": "topk"}, r"unknown option selct; did you mean select\?"),
            ({"backward": "pruned"}, "backward works in `tinyohem train` alone"),
            ({"weight": "class_balanced"}, "class_balanced needs class_counts"),
        ],
    )
    def test_options_that_do_not_fit_are_refused(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            OhemLoss(**options)
        told(error)

    @pytest.mark.parametrize("name", list(OhemConfig.model_fields))
    def test_a_bad_value_of_any_option_gets_our_own_message(self, name: str) -> None:
        for nonsense in ({"\x1b[31m": 0}, object()):
            with pytest.raises(ValueError, match=f"{name} = ") as error:
                OhemLoss(**{name: nonsense})
            assert "\x1b" not in told(error)

    @pytest.mark.parametrize(
        "counts",
        [torch.zeros(VOCAB), -torch.ones(VOCAB), torch.ones(VOCAB, 1), torch.nan * states(9)],
    )
    def test_invalid_class_counts_are_refused(self, counts: Tensor) -> None:
        with pytest.raises(ValueError, match="class_counts must be one count"):
            OhemLoss(weight="class_balanced", class_counts=counts)

    def test_class_counts_of_another_vocabulary_are_refused(self) -> None:
        ohem = OhemLoss(weight="class_balanced", class_counts=torch.ones(VOCAB - 1))
        with pytest.raises(ValueError, match=r"had 22 tokens, but 23 have .*minlength=23"):
            ohem(states(2, 4, VOCAB), zeros(2, 4), keep_ratio=0.5)


class TestRepr:
    def test_repr_names_the_mining_options(self) -> None:
        assert repr(OhemLoss(ratio=0.25, select="importance", floor=0.2)) == (
            "OhemLoss(ratio=0.25, score='gradnorm', select='importance', schedule='recover', "
            "denominator='all', floor=0.2)"
        )

    @given(
        st.sampled_from(sorted(SELECTS)),
        st.sampled_from(["none", "focal", "ghm"]),
        st.sampled_from([None, "kept", "all"]),
        st.floats(0.1, 1),
    )
    def test_repr_rebuilds_the_same_loss(
        self, select: str, weight: str, denominator: str | None, ratio: float
    ) -> None:
        options: dict[str, Any] = {"select": select, "weight": weight, "ratio": ratio}
        options |= SELECTS[select] | ({"denominator": denominator} if denominator else {})
        made = OhemLoss(**options)
        call = ast.parse(repr(made), mode="eval").body
        assert isinstance(call, ast.Call)
        again = OhemLoss(**{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
        assert again.config == made.config


class TestTrainer:
    def run(
        self,
        tmp_path: Path,
        built: Any,
        label: int = 1,
        given: Callable[[Any], Any] = lambda trainer: trainer,
        **options: Any,
    ) -> None:
        from transformers import Trainer, TrainingArguments

        ids = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(7))
        labels = ids.clone()
        labels[2] = label
        mined = trainer_loss(OhemLoss(ratio=0.5), lambda: given(trainer))
        trainer = Trainer(
            model=copy.deepcopy(built).float(),
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=1,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **options,
            ),
            train_dataset=[{"input_ids": ids, "labels": labels}] * 8,
            compute_loss_func=mined,
        )
        trainer.train()

    def test_label_smoothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"label_smoothing_factor = 0.1 .*: set it to 0"):
            self.run(tmp_path, model(), label_smoothing_factor=0.1)

    def test_a_trainer_state_in_place_of_the_trainer_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"label smoothing: write .*lambda: trainer\)"):
            self.run(tmp_path, model(), given=lambda trainer: trainer.state)

    @pytest.mark.parametrize("label", [-1, -2, VOCAB, 10**9])
    def test_a_foreign_label_is_refused(self, tmp_path: Path, label: int) -> None:
        self.run(tmp_path, model(), label=IGNORE_INDEX)
        with pytest.raises(ValueError, match=f"the label {label} of token 1 in sequence 0"):
            self.run(tmp_path, model(), label=label)

    def test_a_model_without_a_head_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"returns last_hidden_state.*AutoModelForCausalLM"):
            self.run(tmp_path, trunk(model()))

    def test_a_batch_without_labels_is_refused(self) -> None:
        state = SimpleNamespace(global_step=0, max_steps=1)
        trainer = SimpleNamespace(state=state, args=SimpleNamespace(label_smoothing_factor=0.0))
        mined = trainer_loss(OhemLoss(), lambda: trainer)
        with pytest.raises(ValueError, match=r"no labels: .*mlm=False"):
            mined({"logits": states(2, 4, SIZE)}, None)
        with pytest.raises(ValueError, match="one label for each state"):  # a classifier's
            mined({"logits": states(2, SIZE)}, zeros(2))
        assert mined((states(2, 4, SIZE),), zeros(2, 4)).isfinite()  # return_dict=False
