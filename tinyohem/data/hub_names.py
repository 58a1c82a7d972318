"""Check with one request that a model name exists on the Hub; libraries would retry for long."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyohem.errors import InputError

TIMEOUT_SECONDS = 10.0


def require_model(name: str, hint: str) -> None:
    """Refuse the name of a model or tokenizer that is neither here nor on the Hub.

    One request without retries, where transformers would retry for half a minute. No request for a
    cached model or for what can only be a path, such as a name below an existing folder. Silences
    the Hub client's messages about retries for later loading.

    Raises:
        InputError: it does not exist, or the Hub cannot be reached.
    """
    path = Path(name)
    if path.exists():
        return
    below_a_folder = "/" in name and Path(path.parts[0]).is_dir()
    if below_a_folder or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"there is no file or folder {name}", hint)
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    with asking(name, "model", hint):
        known = [try_to_load_from_cache(name, f"{file}.json") for file in ("config", "tokenizer")]
        if not any(isinstance(found, str) for found in known):
            HfApi().model_info(name, timeout=TIMEOUT_SECONDS)


@contextmanager
def asking(name: str, kind: str, hint: str) -> Iterator[None]:
    """Turn the errors of a request for one repository into an `InputError`.

    Args:
        name: the repository.
        kind: what it should be, for messages.
        hint: what to do if the Hub cannot be reached.
    """
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        yield
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"{name} is no file or folder here, and no public {kind} on the Hub",
            f"check the spelling; a gated or private {kind} needs `hf auth login`",
        ) from None
    except network_errors() as error:
        raise InputError(
            f"{name} is no file or folder, and the Hub cannot be reached: {first_line(error)}",
            hint,
        ) from None


def network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a lost or missing connection."""
    # The base class of httpx or httpx2, whichever the installed Hub client uses.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
