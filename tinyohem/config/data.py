"""Where the stories and the vocabulary come from."""

from pydantic import Field

from tinyohem.config.sections import Section


class DataConfig(Section):
    """Where the stories come from."""

    dataset: str = "roneneldan/TinyStories"  # Hub id, `sample`, file, folder or glob
    valid: str | None = None  # default: the data set's own validation split, else one story in 50
    text_field: str = "text"
    clean: bool = False


class TokenizerConfig(Section):
    """The vocabulary: trained on the corpus, or loaded from `name`."""

    name: str | None = None  # Hub id or folder
    vocab_size: int = Field(4096, ge=257, le=2**24)  # default on `sample`: 2,048
