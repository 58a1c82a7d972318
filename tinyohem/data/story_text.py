"""Take the story out of a row and check it, with the errors for rows that hold none."""

from collections.abc import Mapping
from pathlib import Path

from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError

# Ten thousand times as long as a story, and short enough for any memory: it stops files that
# decompress without end or hold no separator.
MAX_STORY_BYTES = 64 << 20

DEFAULT_TEXT_FIELD = "text"
UTF8_HINT = "convert the file to UTF-8"


def story_text(record: object, field: str, where: str) -> str:
    """Return the story in one record of a JSON file or a Hub data set.

    A record is an object with the field or, if the user named no field, the story itself. A null
    record or story is empty.

    Raises:
        InputError: `record` is neither, lacks the field, or the field is not valid text.
    """
    if isinstance(record, Mapping):
        if field not in record:
            raise missing_field(where, field, list(record))
        return checked_text(record[field], where)
    if record is None or (isinstance(record, str) and field == DEFAULT_TEXT_FIELD):
        return checked_text(record, where)
    raise InputError(
        f"{where}: {_kind(record)} where an object with the story should be",
        f'each row should read {{"{field}": "..."}}',
    )


def checked_text(value: object, where: str) -> str:
    """Return a story if it is text of an allowed length, an empty one for null.

    Raises:
        InputError: it is not.
    """
    if value is None or value != value:  # pandas writes a missing text as NaN
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: the story is {_kind(value)}, not text", "name a field of text")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        # JSON can spell half of a pair, "\ud83d", which no tokenizer or file can hold.
        raise InputError(
            f"{where}: the story holds half of a surrogate pair", "write the file again as UTF-8"
        ) from None
    if size > MAX_STORY_BYTES:
        raise too_long(where)
    return value


def decoded(data: bytes, path: Path, line: int) -> str:
    """Decode UTF-8 bytes that begin on `line` of a file.

    Raises:
        InputError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(f"{path}:{line}: not UTF-8: {error.reason}", UTF8_HINT) from None


def broken_json(where: str, reason: Exception | str) -> InputError:
    """Return the error for a record that is no JSON object."""
    reason = getattr(reason, "msg", reason)  # without the position, which is in `where`
    limit = f"each story must be one whole JSON object of at most {MAX_STORY_BYTES >> 20} MiB"
    return InputError(f"{where}: broken JSON: {reason}", limit)


def missing_field(where: str, field: str, fields: list[str]) -> InputError:
    """Return the error for a record without the story's field."""
    known = ", ".join(fields) or "none"
    return InputError(
        f'{where}: no field "{field}"; the fields are: {known}', "name one with --text-field"
    )


def too_long(where: str) -> InputError:
    """Return the error for a story beyond `MAX_STORY_BYTES`."""
    return InputError(
        f"{where}: a story of more than {MAX_STORY_BYTES >> 20} MiB",
        f"separate stories with {END_OF_TEXT} in a .txt file, by line ends in a .jsonl file",
    )


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "an array", "str": "text"}
    return names.get(type(value).__name__, f"of type {type(value).__name__}")
