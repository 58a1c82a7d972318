"""`tinyohem recipes list|show`: the built-in recipes, and the meaning of every key."""

from typing import Annotated

import typer

recipes = typer.Typer(help="The built-in recipes.", no_args_is_help=True, add_completion=False)


@recipes.command("list")
def list_recipes() -> None:
    """List the built-in recipes with what each is for."""
    import tomllib

    from tinyohem.config.recipes import recipe_names, recipe_text
    from tinyohem_cli.console import Table, out

    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name in recipe_names():
        table.add_row(name, tomllib.loads(recipe_text(name))["description"])
    out.print(table)


@recipes.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Built-in recipe or a .toml file")],
) -> None:
    """Print every key of a recipe as `train` would use it, with its meaning, unit and default."""
    import json
    import textwrap

    from tinyohem.config.recipes import load_config
    from tinyohem.config.run import known_keys
    from tinyohem.config.sections import explain, flag_of

    known = known_keys()
    comment = textwrap.TextWrapper(
        100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    for section, values in load_config(name).model_dump().items():
        typer.echo(f"[{section}]")
        for key, value in values.items():
            field = known[section][key]
            told = "; ".join(filter(None, (explain(field), flag_of(field))))
            typer.echo(comment.fill(told))
            # As TOML: strings, numbers and booleans are the same there, but for JSON's pairs of \u.
            written = json.dumps(value, ensure_ascii=False)
            typer.echo(f"{key} = {written}" if value is not None else f"# {key}: not set")
        typer.echo()
