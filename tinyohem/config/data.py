"""The sections `[data]` and `[tokenizer]`: the source of the stories and of the vocabulary."""

from tinyohem.config.sections import Section, setting


class DataConfig(Section):
    """The source of the stories."""

    dataset: str = setting(
        "roneneldan/TinyStories",
        "Hub id, `sample` (built in, synthetic), file, folder or glob of .txt .jsonl .json "
        ".parquet .arrow, also .gz or .zst, here or by URL (s3://…, https://…)",
        flag="--dataset",
    )
    valid: str | None = setting(
        None,
        "Validation stories, as --dataset",
        flag="--valid",
        default_is="the data set's own, else 1 story in 50, chosen by a hash of its text; "
        "stories in both splits are reported",
    )
    text_field: str = setting("text", "Field that holds the story", flag="--text-field")
    clean: bool = setting(
        False,
        "Clean the stories: repair mojibake; drop stories that are empty, begin or end inside a "
        "sentence, repeat an earlier one, or train and validate",
        flag="--clean/--no-clean",
    )
    licence: str | None = setting(
        None,
        "Licence of the stories, as the Hub spells it (cc-by-4.0), for the model card",
        default_is="none is named",
    )


class TokenizerConfig(Section):
    """The vocabulary, trained on the corpus or loaded from `name`."""

    name: str | None = setting(
        None,
        "Vocabulary to use: Hub id or folder; one that loses text costs the figures per "
        "byte and per word",
        flag="--tokenizer",
        default_is="a BPE of 4,096 tokens, of bytes (on `sample` 2,048), is trained",
    )
    vocab_size: int = setting(
        4096,
        "Tokens of the vocabulary, where it is trained",
        default_is="4096, on `sample` 2048",
        ge=257,
        le=2**24,
        unit="tokens",
    )
