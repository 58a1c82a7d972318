"""`tinyohem generate`: continue prompts with a model."""

from typing import Annotated

import typer

from tinyohem_cli import options


def generate(
    model: Annotated[
        str, typer.Argument(help="Run folder, checkpoint, transformers folder or Hub id")
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Beginning of a story; repeatable; default: an empty one"),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Longest continuation in tokens", min=1)
    ] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 takes the likeliest token", min=0)
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Sample from the k likeliest tokens; 0: all", min=0)
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option("--top-p", help="Sample from this share of the probability", min=0, max=1),
    ] = 0.95,
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="Stories of each prompt", min=1)
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Of the first story; each later one has the next",
            min=0,
            max=2**32 - 1,
        ),
    ] = 0,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Continue one or several prompts, each until its end of text."""
    from tinyohem.errors import InputError
    from tinyohem.models.generate import generate as continue_prompts
    from tinyohem.models.source import load_source
    from tinyohem_cli.console import print_json

    prompts = prompts or [""]
    if num_samples > 1 and temperature == 0:
        raise InputError(
            f"at temperature 0 all {num_samples} stories are the same",
            "raise --temperature, or leave --num-samples out",
        )
    stories = continue_prompts(
        load_source(model, device or "auto"),
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_samples=num_samples,
        on_text=None if as_json else _Writer(len(prompts) * num_samples, seed),
    )
    if as_json:
        print_json({"stories": [story.to_json() for story in stories]})
    else:
        print()


class _Writer:
    """Writes each piece of a story at once; a line with its seed stands before one of several."""

    def __init__(self, num_stories: int, seed: int) -> None:
        self._many, self._seed = num_stories > 1, seed
        self._story = -1

    def __call__(self, story: int, piece: str) -> None:
        from tinyohem_cli.console import harmless, out

        if story != self._story:
            if story:
                print("\n")
            if self._many:  # a blank line alone also stands between the paragraphs of a story
                out.print(f"── story {story + 1}, seed {self._seed + story} ──", style="dim")
            self._story = story
        # Not through rich, which would replace the tabs.
        print(harmless(piece), end="", flush=True)
