"""`tinyohem recipes list|show`: the built-in recipes, and the meaning of every key."""

from typing import Annotated

import typer

from tinyohem_cli import options

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
    name: Annotated[
        str | None, typer.Argument(help="Built-in recipe or a .toml file; default: the defaults")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print every key of a recipe as `train` would use it, with its meaning, unit and default."""
    import json
    import textwrap
    from itertools import groupby

    from tinyohem.config.recipes import load_config
    from tinyohem.config.settings import setting_rows
    from tinyohem_cli.console import print_json

    rows = setting_rows(load_config(name))
    if as_json:
        print_json({"settings": [row.to_json() for row in rows]})
        return
    comment = textwrap.TextWrapper(
        100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    for section, keys in groupby(rows, key=lambda row: row.section):
        typer.echo(f"[{section}]")
        for row in keys:
            unit = row.unit and f"unit: {row.unit}"
            told = (row.meaning, unit, f"default: {row.default}", row.flag)
            typer.echo(comment.fill("; ".join(filter(None, told))))
            # As TOML: strings, numbers and booleans are the same there, but for JSON's pairs of \u.
            written = json.dumps(row.value, ensure_ascii=False)
            typer.echo(
                f"{row.name} = {written}" if row.value is not None else f"# {row.name}: not set"
            )
        typer.echo()
