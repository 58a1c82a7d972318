"""Stories of a data set on the Hugging Face Hub, streamed without a download."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tinyohem.data.hub_names import TIMEOUT_SECONDS, asking, first_line, network_errors
from tinyohem.data.story_text import story_text
from tinyohem.errors import InputError, RunError
from tinyohem.io.hashing import hash_json

if TYPE_CHECKING:
    from datasets import DatasetBuilder

# Readers of `datasets` that parse text or columns. It has dozens more, one of which unpickles.
_READERS = frozenset({"arrow", "csv", "json", "parquet", "text"})


def latest_commit(name: str) -> str:
    """Ask the Hub for the newest commit of a data set.

    One request without retries, so that a missing network shows at once; `datasets` would retry for
    half a minute.

    Raises:
        InputError: the Hub cannot be reached, or has no such data set for this user.
    """
    import datasets
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=datasets.config.HF_ENDPOINT)
    with asking(name, "data set", "use a local file, or --dataset sample"):
        return str(hub.dataset_info(name, timeout=TIMEOUT_SECONDS).sha)


def hub_builder(name: str, commit: str) -> "DatasetBuilder":
    """Resolve the data files of a data set at a commit; never run code of the repository.

    Raises:
        InputError: the data set has no files that `datasets` can read, or needs a configuration.
    """
    import datasets

    datasets.disable_progress_bars()  # the caller draws its own
    try:
        builder = datasets.load_dataset_builder(name, revision=commit)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be opened from the Hub: {first_line(error)}",
            "download its files and pass one of them",
        ) from error
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in _READERS:
        raise InputError(
            f"{name} holds files for datasets' reader {reader!r}, which is not trusted here",
            f"choose a data set of {', '.join(sorted(_READERS))}",
        )
    return builder


def hub_splits(builder: "DatasetBuilder") -> list[str]:
    """Return the names of the splits in the repository."""
    return [str(split) for split in builder.config.data_files or {}]


def hub_fingerprint(builder: "DatasetBuilder", split: str) -> str:
    """Hash the files of a split with their commit, or with their times if they are local."""
    files = builder.config.data_files[split]
    return hash_json([list(files), [list(origin) for origin in files.origin_metadata]])


def hub_rows(builder: "DatasetBuilder", split: str) -> int | None:
    """Return how many rows a split has, None if the repository's card does not say."""
    known = (builder.info.splits or {}).get(split)
    return known.num_examples or None if known else None


def hub_texts(builder: "DatasetBuilder", name: str, split: str, text_field: str) -> Iterator[str]:
    """Stream the text of every row of a split.

    Raises:
        InputError: the field is missing or is not text.
        RunError: the connection was lost, or a file is damaged.
    """
    import datasets
    import pyarrow

    damage = (pyarrow.ArrowException, datasets.exceptions.DatasetsError)
    try:
        for row, record in enumerate(builder.as_streaming_dataset(split=split)):
            yield story_text(record, text_field, f"{name} ({split}): row {row}")
    except (*network_errors(), *damage) as error:
        raise RunError(
            f"reading {name} from the Hub failed: {first_line(error)}", "run the command again"
        ) from error
