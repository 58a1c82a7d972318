"""Files behind URLs that fsspec knows, such as s3://, gs://, hf:// or memory://.

Story files are read in place. An output folder is filled locally and copied file by file, because
its writer needs renaming and locks, which object stores lack.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from tinyohem.errors import InputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BUFFER_BYTES = 1 << 20
_HTTP = ("http", "https")
_SILENCE_SECONDS = 60.0  # until a silent web server counts as lost


def is_url(name: str) -> bool:
    """Tell whether a name is a URL rather than a path."""
    return _URL.match(name) is not None


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL, with the part of `Path` that readers of story files use.

    Attributes:
        url: its address.
        size: bytes at the time it was found.
    """

    url: str
    size: int

    def __str__(self) -> str:
        return self.url

    def as_posix(self) -> str:
        """See `Path`; a web address without its query."""
        if not self.only_streams:
            return self.url
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{unquote(parts.path)}"

    @property
    def only_streams(self) -> bool:
        """Whether it can only be read from its beginning: few web servers send ranges."""
        return urlsplit(self.url).scheme in _HTTP

    @property
    def name(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.as_posix()).name

    @property
    def stem(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.as_posix()).stem

    @property
    def suffix(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.as_posix()).suffix

    def is_file(self) -> bool:
        """See `Path`; no folder becomes a RemoteFile."""
        return True

    def stat(self) -> SimpleNamespace:
        """See `Path`; it has the size only."""
        return SimpleNamespace(st_size=self.size)

    def open(self, _mode: str = "rb") -> BinaryIO:
        """Open for reading bytes."""
        system, path = _file_system(self.url)
        how = {"block_size": 0} if self.only_streams else {}
        with _reaching(self.url):
            stream = system.open(path, "rb", **how)
        return io.BufferedReader(_Reader(self.url, stream), _BUFFER_BYTES)


class _Reader(io.RawIOBase):
    """A stream whose errors name its URL."""

    def __init__(self, url: str, stream: Any) -> None:
        self._url, self._stream = url, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        with _reaching(self._url):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class FoundFiles(NamedTuple):
    """The files that a name means."""

    is_file: bool  # the name is that of a single file, not of a folder and no glob
    paths: list[Path]


def find_files(url: str) -> FoundFiles:
    """Return the file that a URL names, or the files of that folder or glob.

    Raises:
        InputError: its file system is unknown, not installed or does not answer.
    """
    system, path = _file_system(url)
    on_the_web = urlsplit(url).scheme in _HTTP
    with _reaching(url):
        # Of a web address `info` tells what is wrong, `isfile` does not.
        if (url[-1] != "/" and "*" not in path) if on_the_web else system.isfile(path):
            return FoundFiles(True, _files(system, {path: system.info(path)}))
        if any(character in path for character in "*?["):
            found, base = system.glob(path, detail=True), ""
        else:
            found, base = system.find(path, detail=True), path.rstrip("/") + "/"
    seen = {
        name: info
        for name, info in found.items()
        if not any(part.startswith(".") for part in name.removeprefix(base).split("/"))
    }
    return FoundFiles(False, _files(system, seen))


def _files(system: "AbstractFileSystem", found: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    files = [
        RemoteFile(system.unstrip_protocol(name), int(info["size"] or 0))
        for name, info in found.items()
        if info["type"] == "file"
    ]
    return cast(list[Path], files)  # readers use only what a RemoteFile has


class RemoteFolder:
    """A folder behind a URL. Names in it are relative and use `/`."""

    def __init__(self, url: str) -> None:
        """Find its file system; the folder itself need not exist."""
        self.url = url
        self._system, path = _file_system(url)
        self._root = path.rstrip("/")
        self._made: set[str] = set()

    def fetch(self, name: str, to: Path) -> bool:
        """Copy a file to here; return False if there is none."""
        with _reaching(self.url):
            try:
                to.parent.mkdir(parents=True, exist_ok=True)
                self._system.get_file(f"{self._root}/{name}", str(to))
            except FileNotFoundError:
                return False
        return True

    def put(self, path: Path, name: str) -> None:
        """Copy a file there, over any file of that name."""
        with _reaching(self.url):
            target = f"{self._root}/{name}"
            folder = target.rpartition("/")[0]
            if folder not in self._made:  # object stores need none, but would check each time
                self._system.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            self._system.put_file(str(path), target)

    def names(self, folder: str) -> list[str]:
        """Return the file names in a folder without its path, none if it is not there."""
        with _reaching(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return []
        return [PurePosixPath(info["name"]).name for info in found if info["type"] == "file"]

    def remove(self, folder: str) -> None:
        """Remove a folder with its content, if it is there."""
        with _reaching(self.url):
            self._system.invalidate_cache()
            if self._system.exists(f"{self._root}/{folder}"):
                self._system.rm(f"{self._root}/{folder}", recursive=True)
            self._made.clear()


def _file_system(url: str) -> tuple["AbstractFileSystem", str]:
    """Return the file system of a URL, and the path in it."""
    import fsspec

    if "::" in url:  # one file system inside another hides what is read
        raise InputError(f"{url} chains file systems", "give one plain URL")
    try:
        with _reaching(url, ImportError, ValueError):
            return fsspec.core.url_to_fs(url, **_web_options(url))
    except ImportError as error:
        hint = "install the package that the message names"
        raise InputError(f"{url} needs a package that is not installed: {error}", hint) from None
    except ValueError as error:
        raise InputError(f"{url}: {error}", "known are s3, gs, az, hf, http and others") from None


def _web_options(url: str) -> Mapping[str, Any]:
    """Return options that ask web servers for the unchanged file, without a total time limit."""
    if urlsplit(url).scheme not in _HTTP:
        return {}
    import aiohttp

    patience = aiohttp.ClientTimeout(
        total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS
    )
    return {
        "headers": {"Accept-Encoding": "identity"},
        "client_kwargs": {"timeout": patience, "auto_decompress": False},
    }


@contextmanager
def _reaching(url: str, *told_elsewhere: type[Exception]) -> Iterator[None]:
    """Turn whatever a file system raises into an InputError that names the URL."""
    try:
        yield
    except told_elsewhere:
        raise
    except Exception as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> InputError:
    # For a web address fsspec always says "not found"; the true cause is behind it.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    cause = cause if isinstance(cause, Exception) else error
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        answer = f"the server answers {status} {getattr(cause, 'message', '')}".rstrip()
        hint = "try again later" if status >= 500 else "check the address and your credentials"
        return InputError(f"{url} cannot be read: {answer}", hint)
    if "Payload" in type(cause).__name__:  # aiohttp's: less came than announced
        return InputError(f"{url} cannot be read: the connection broke", "run the command again")
    reason = " ".join(str(cause).split())
    return InputError(
        f"{url} cannot be reached: {type(cause).__name__}: {reason}",
        "check the address, the network and your credentials",
    )
