"""Plain, `.gz` and `.zst` files, and single zstd frames."""


def _encoded(text: str) -> bytes:
    """Return JSON as UTF-8; what UTF-8 has not, a byte of a file's name, in JSON's own escape."""
    return text.encode("utf-8", "backslashreplace")


def compress(content: bytes) -> bytes:
    """Return one zstd frame that knows its content's size and checksum."""
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def decompress(frame: bytes, size: int) -> bytes:
    """Return the `size` bytes that `compress` was given.

    Raises:
        ValueError: the frame is damaged, is not alone, or holds another number of bytes. That is
            asked of its header, before any memory is taken.
    """
    import zstandard

    try:
        if zstandard.frame_content_size(frame) != size:
            raise ValueError(f"not a zstd frame of {size:,} bytes")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
