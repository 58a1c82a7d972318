"""Parquet and Arrow files of stories: stream the column that holds them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tinyohem.data.story_text import UTF8_HINT, checked_text, missing_field
from tinyohem.errors import InputError
from tinyohem.io.streams import open_seekable

if TYPE_CHECKING:
    from pyarrow import DataType, RecordBatch, Schema

_PARQUET_ROWS = 1024
_ARROW_MAGIC = b"ARROW1"  # begins a file for random access; a stream has none


def read_columns(path: Path, text_field: str, suffix: str) -> Iterator[str]:
    """Stream the text of every row of a `.parquet` or `.arrow` file.

    Arrow is what `datasets.save_to_disk` writes, a stream, or an IPC file (Feather, version 2).

    Raises:
        InputError: there is no such column, it is not of text, or not of UTF-8.
        pyarrow.ArrowException, OSError: the file is damaged.
    """
    import pyarrow

    with open_seekable(path) as stream:
        row = 0
        read = _parquet if suffix == ".parquet" else _arrow
        for batch in read(stream, path, text_field):
            try:
                batch.validate(full=True)
            except pyarrow.ArrowInvalid as error:
                rows = f"rows {row} to {row + len(batch) - 1}"
                raise InputError(f"{path}: not UTF-8 in {rows}: {error}", UTF8_HINT) from None
            for value in batch.column(0):
                yield _text(value.as_py(), f"{path}: row {row}")
                row += 1


def _parquet(stream: BinaryIO, path: Path, text_field: str) -> Iterator["RecordBatch"]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(stream)
    _column(metadata.schema.to_arrow_schema(), text_field, path)
    # As a dictionary, a repeated text takes memory once: a page of a few bytes may repeat megabytes
    # a thousand times.
    table = pyarrow.parquet.ParquetFile(stream, metadata=metadata, read_dictionary=[text_field])
    yield from table.iter_batches(_PARQUET_ROWS, columns=[text_field])


def _arrow(stream: BinaryIO, path: Path, text_field: str) -> Iterator["RecordBatch"]:
    from pyarrow import ipc

    is_file = stream.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
    opener = ipc.open_file if is_file else ipc.open_stream
    stream.seek(0)
    column = _column(opener(stream).schema, text_field, path)
    stream.seek(0)
    reader = opener(stream, options=ipc.IpcReadOptions(included_fields=[column]))
    yield from map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader


def _column(schema: "Schema", text_field: str, path: Path) -> int:
    """Return the index of the column of stories.

    Raises:
        InputError: there is no column of that name, or it is not of text.
    """
    index = int(schema.get_field_index(text_field))
    if index < 0:
        raise missing_field(str(path), text_field, schema.names)
    if not _is_text(schema.field(index).type):
        texts = [field.name for field in schema if _is_text(field.type)]
        raise InputError(
            f'{path}: the field "{text_field}" is {schema.field(index).type}, not text',
            f"the fields of text are: {', '.join(texts) or 'none'}; name one with --text-field",
        )
    return index


def _is_text(kind: "DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    # Old writers leave text unmarked, as bytes. A column of nulls alone has a type of its own.
    texts = ("string", "large_string", "string_view")
    unmarked = ("binary", "large_binary", "binary_view")
    return any(getattr(types, f"is_{name}")(kind) for name in ("null", *texts, *unmarked))


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not UTF-8: {error.reason}", UTF8_HINT) from None
    return checked_text(value, where)
