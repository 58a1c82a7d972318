"""`tinyohem prepare-data`: tokenizer and token stores, ahead of training."""

from tinyohem_cli import options


@options.with_keys(
    *("recipe", "data.dataset", "data.valid", "data.text_field", "data.clean", "target.stories"),
    *("tokenizer.name", "assignments", "as_json"),
)
def prepare_data(
    overrides: options.Overrides,
    recipe: options.Recipe = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Tokenize a data set once; `train` with the same options then starts at once.

    Everything lands in `data/` (or `$TINYOHEM_DATA`), filed under a hash of the content. What is
    there already is held against its checksums, every byte of it; other commands look at the
    length alone where a file is larger than 2 GiB.
    """
    from tinyohem.config.recipes import load_config
    from tinyohem.training.inputs import prepare_stories
    from tinyohem_cli.console import ConsoleProgress, Table, out, print_json

    config = load_config(recipe, overrides, assignments or ())
    prepared = prepare_stories(config, ConsoleProgress(), every_byte=True)
    chosen = prepared.choice and prepared.choice.record
    manifests = {"train": prepared.train.manifest, "valid": prepared.valid.manifest}
    if as_json:
        facts = {split: manifest.to_json() for split, manifest in manifests.items()}
        print_json(facts | ({"choice": chosen.summary()} if chosen else {}))
        return
    table = Table("split", "stories", "tokens", "bytes", "bytes per token")
    for split, manifest in manifests.items():
        counts = (manifest.stories, manifest.tokens, manifest.bytes)
        table.add_row(split, *(f"{n:,}" for n in counts), f"{counts[2] / counts[1]:.2f}")
    out.print(table)
