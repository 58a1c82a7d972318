"""The model card of a finished run: `model/README.md`, with the metadata that the Hub reads.

It names data and folders without their paths, which are nobody's business but the owner's.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyohem import __version__
from tinyohem.config.model import PRESETS, model_shape
from tinyohem.config.run import RunConfig
from tinyohem.data.corpus import SAMPLE
from tinyohem.data.story_files import is_local
from tinyohem.data.tokenizer import start_id
from tinyohem.evaluation.perplexity import Perplexity
from tinyohem.io.names import shown
from tinyohem.io.remote import is_url
from tinyohem.runs.record import StoreOfRun
from tinyohem.training.run import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD_FILE = "README.md"
_ENGLISH = frozenset({SAMPLE, "roneneldan/TinyStories"})  # the language of others is not known

_TEXT = """\
# {title}

A causal language model of {parameters:,} parameters ({kind}), trained with tinyohem {version}
on {data}. It continues stories of that kind. It has learned no facts and follows no instructions.

## Load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (a.from_pretrained("{folder}") for a in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer({begin!r}, return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, do_sample=True, max_new_tokens=200)[0]))
```

Put the path of this folder, or the model's name on the Hub, in the place of `{folder}`.

## How well it predicts

Every token of {stories:,} held-out stories, each story by itself:

| figure | value |
| --- | --- |
{figures}

## How it was trained

{facts}

The settings that differ from the defaults of that version, as a recipe of `tinyohem train`:

```toml
{settings}
```
"""


def write_card(folder: Path, run: Run, perplexity: Perplexity) -> None:
    """Write the card of a run that has ended beside its model."""
    from huggingface_hub import ModelCard

    card = ModelCard(f"---\n{_metadata(run, perplexity)}\n---\n\n{_text(run, perplexity)}")
    card.save(folder / CARD_FILE)


def public_name(name: str) -> str:
    """Return a data set's or model's name without the path that leads to it here."""
    return shown(name if _on_hub(name) else Path(name.partition("?")[0]).name or name)


def _on_hub(name: str) -> bool:
    return not (name == SAMPLE or is_local(name) or is_url(name))


def _metadata(run: Run, perplexity: Perplexity) -> str:
    from huggingface_hub import ModelCardData

    config, base = run.config, run.config.model.init_from
    dataset = config.data.dataset
    data = ModelCardData(
        language="en" if dataset in _ENGLISH else None,
        license=config.data.licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tinyohem", *(["hard-example-mining"] if _mines(run) else [])],
        base_model=base if base and _on_hub(base) else None,
        datasets=[dataset] if _on_hub(dataset) else None,
        model_name=_title(config),
        eval_results=_results(run, perplexity),
    )
    return str(data.to_yaml())


def _results(run: Run, perplexity: Perplexity) -> "list[EvalResult]":
    """Return the figures for the Hub's index; what the tokenizer's losses hide is left out."""
    from huggingface_hub import EvalResult

    name = public_name(StoreOfRun(**run.data.valid.manifest.to_json()).name)
    figures = perplexity.to_json()
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            dataset_split="validation",
            metric_type=metric,
            metric_name=label,
            metric_value=figures[metric],
        )
        for metric, label in (
            ("perplexity", "perplexity per token"),
            ("bits_per_byte", "bits per byte"),
        )
        if figures[metric] is not None
    ]


def _text(run: Run, perplexity: Perplexity) -> str:
    figures = perplexity.to_json()
    names = {
        "perplexity": "perplexity per token",
        "bits_per_byte": "bits per byte",
        "loss": "nats per token",
    }
    known = {name: figures[key] for key, name in names.items() if figures[key] is not None}
    return _TEXT.format(
        title=_title(run.config),
        parameters=run.model.num_parameters(),
        kind=type(run.model).__name__,
        version=__version__,
        data=public_name(run.config.data.dataset),
        folder="PATH",
        begin=_beginning(run.data.tokenizer),
        stories=perplexity.stories,
        figures="\n".join(f"| {name} | {value:.4f} |" for name, value in known.items()),
        facts="\n".join(f"- {name}: {value}" for name, value in _facts(run).items()),
        settings="\n".join(f"{key} = {value}" for key, value in _settings(run.config).items()),
    )


def _beginning(tokenizer: Any) -> str:
    """Return a prompt that begins a story as in training, behind the token that begins one."""
    prompt = "Once upon a time"
    begins = tokenizer(prompt)["input_ids"][:1] == [start_id(tokenizer)]
    return prompt if begins else tokenizer.convert_ids_to_tokens(start_id(tokenizer)) + prompt


def _facts(run: Run) -> dict[str, str]:
    """Return how a run was trained, in words."""
    state, training = run.state, run.config.training
    optim, licence = run.config.optim, " ".join((run.config.data.licence or "").split())
    base, choice = run.config.model.init_from, run.data.choice and run.data.choice.record
    share = state.tokens_selected / max(1, state.tokens_seen)
    return {
        **({"started from": public_name(base)} if base else {}),
        **({"licence of the data, as its user gave it": licence} if licence else {}),
        **({"stories": f"{choice.kept:,} of {choice.stories:,} chosen"} if choice else {}),
        "tokens": f"{state.tokens_seen:,} in {state.step:,} steps of {training.batch_size} × "
        f"{training.seq_len}, of a corpus of {run.data.train.num_tokens:,}",
        "tokens that gave a gradient": f"{share:.1%}" + ("" if _mines(run) else ", no mining"),
        "optimizer": f"{optim.optimizer}, learning rate {optim.peak_lr:g}, {optim.schedule}",
        "seed": str(training.seed),
        "time": f"{state.train_seconds:,.0f} s of training on {run.device.type}, "
        f"{run.arithmetic.precision}",
    }


def _settings(config: RunConfig) -> dict[str, str]:
    """Return the keys that differ from the defaults, with their values in TOML."""
    usual = RunConfig().model_dump()
    return {
        f"{section}.{key}": json.dumps(
            public_name(value) if isinstance(value, str) else value, ensure_ascii=False
        )
        for section, values in config.model_dump().items()
        for key, value in values.items()
        if value not in (None, usual[section][key])
    }


def _title(config: RunConfig) -> str:
    """Return a name by the model and the data."""
    preset, base = config.model.preset, config.model.init_from
    model = preset or public_name(base or "")
    if preset is not None and model_shape(config.model) != PRESETS[preset]:
        model = "own-shape"
    data = Path(public_name(config.data.dataset)).name.partition(".")[0]
    return f"{model}-{data}"


def _mines(run: Run) -> bool:
    return run.state.tokens_selected < run.state.tokens_seen
