"""Single zstd frames."""


def compress(content: bytes) -> bytes:
    """Return one zstd frame with the size and checksum of its content."""
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def decompress(frame: bytes, size: int) -> bytes:
    """Return the `size` bytes that `compress` was given.

    Raises:
        ValueError: the frame is damaged, is not alone, or holds another number of bytes; its
            header tells that before any memory is taken.
    """
    import zstandard

    try:
        if zstandard.frame_content_size(frame) != size:
            raise ValueError(f"not a zstd frame of {size:,} bytes")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
