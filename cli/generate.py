"""`tinyohem generate`: continue prompts with a model."""

from typing import Annotated

import typer

from tinyohem_cli import options

_BETWEEN_STORIES = "─" * 40


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
    seed: Annotated[int, typer.Option("--seed", help="Prompt i samples with seed + i", min=0)] = 0,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Continue one or several prompts, each until its end of text."""
    from tinyohem.models.generate import generate as continue_prompts
    from tinyohem.models.source import load_source
    from tinyohem_cli.console import harmless, out, print_json

    stories = continue_prompts(
        load_source(model, device or "auto"),
        prompts or [""],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    if as_json:
        print_json({"stories": stories})
        return
    for number, story in enumerate(stories):
        if number:  # a blank line also stands between the paragraphs of a story
            out.print(_BETWEEN_STORIES, style="dim")
            out.print()
        out.print(harmless(story), markup=False)
        out.print()
