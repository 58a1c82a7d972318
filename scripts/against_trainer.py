"""What a user would pick instead: transformers' Trainer, with its own settings or tuned ones.

Same stories, tokenizer, model size, context and sequences a step; trained for so many seconds and
scored by `eval-perplexity`'s own code. Give the same seconds to
`tinyohem train --set training.seconds=…`, at the same time on another core or right after it.
Needs `pip install accelerate`, as the Trainer does. Of the 256 tokens of a sequence the Trainer
learns from 255: transformers shifts the labels within the window, `tinyohem` reads one token on.
"""

import sys
import time
from typing import Annotated, Any, Literal

import typer

from tinyohem.errors import TinyohemError
from tinyohem_cli.console import print_error

# Steps taken first, to lay the Trainer's own schedule over the seconds; the later ones are timed.
_PACE_STEPS = 60
_WARM_UP = 20


def main(
    dataset: str,
    valid: str,
    seconds: Annotated[float, typer.Option(help="Seconds of training")] = 300.0,
    model: Annotated[str, typer.Option(help="Preset")] = "2m",
    lr: Annotated[float | None, typer.Option(help="Default: the Trainer's own")] = None,
    schedule: Annotated[Literal["linear", "cosine"], typer.Option(help="Of the rate")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the steps", min=0, max=1)] = 0.0,
    beta2: Annotated[float, typer.Option(help="Of AdamW")] = 0.999,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the weights and the order", min=0)] = 0,
) -> None:
    """Train with the Trainer, print steps, bits per byte and perplexity as JSON."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from tinyohem.config.model import model_shape
    from tinyohem.config.recipes import load_config
    from tinyohem.data.prepare import prepare_data
    from tinyohem.data.tokenizer import start_id
    from tinyohem.evaluation.perplexity import evaluate_perplexity
    from tinyohem.system.allocator import keep_freed_memory
    from tinyohem_cli.console import ConsoleProgress, print_json

    keep_freed_memory()  # as every command of tinyohem does
    config = load_config(
        overrides={"data.dataset": dataset, "data.valid": valid, "model.preset": model}
    )
    data = prepare_data(config.data, config.tokenizer, ConsoleProgress())
    shape, start = model_shape(config.model), start_id(data.tokenizer)

    def new_model() -> LlamaForCausalLM:
        set_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(data.tokenizer),
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.num_layers,
                num_attention_heads=shape.num_heads,
                intermediate_size=shape.intermediate_size,
                max_position_embeddings=config.training.seq_len,
                tie_word_embeddings=True,
                bos_token_id=start,
                eos_token_id=start,
            )
        )

    settings: dict[str, Any] = {
        "lr_scheduler_type": schedule,
        "adam_beta2": beta2,
        "weight_decay": weight_decay,
        "seed": seed,
        **({} if lr is None else {"learning_rate": lr}),
    }
    ends = _train(new_model(), data.train, config.training, _PACE_STEPS, settings)
    pace = (ends[-1] - ends[_WARM_UP - 1]) / (_PACE_STEPS - _WARM_UP)
    trained, max_steps = new_model(), round(seconds / pace)
    settings["warmup_steps"] = round(warmup * max_steps)
    ends = _train(trained, data.train, config.training, max_steps, settings, seconds)
    trained.eval()
    perplexity = evaluate_perplexity(trained, data.valid, seq_len=config.training.seq_len)
    facts = {"train_seconds": ends[-1], "steps": len(ends), "planned_steps": max_steps}
    print_json({**settings, **facts, **perplexity.to_json()})


def _train(
    model: Any,
    store: Any,
    training: Any,
    max_steps: int,
    settings: dict[str, Any],
    limit: float = 1e9,
) -> list[float]:
    """Return the seconds from the Trainer's start to the end of each of its steps.

    Args:
        settings: of `TrainingArguments`.
    """
    from torch.utils.data import Dataset
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    from tinyohem.data.windows import plan_windows

    class Windows(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return plan_windows(store, training.seq_len, training.seed).num_windows

        def __getitem__(self, index: int) -> dict[str, Any]:
            first = index * training.seq_len
            ids = store.ids[first : first + training.seq_len].astype("int64")
            return {"input_ids": ids, "labels": ids}

    class Clock(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            ends.append(time.perf_counter() - started)
            control.should_training_stop |= ends[-1] >= limit

    arguments = TrainingArguments(
        output_dir="runs/trainer",
        per_device_train_batch_size=training.batch_size,
        max_steps=max_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)  # standard output is for the JSON
    ends: list[float] = []
    started = time.perf_counter()
    trainer.train()
    return ends


if __name__ == "__main__":
    try:
        typer.run(main)
    except TinyohemError as error:
        print_error(error)
        sys.exit(error.exit_code)
