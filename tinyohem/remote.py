"""Files elsewhere: whatever fsspec reaches by a URL, such as s3://, gs://, hf:// or memory://.

Story files are read where they are. A folder that will be written is filled here and sent there,
file by file: what writes it needs renaming and locks, which object stores do not have.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tinyohem.errors import InputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_BUFFER_BYTES = 1 << 20


def is_url(name: str) -> bool:
    """Tell whether a name is a URL and no path of this machine."""
    return _URL.match(name) is not None


@dataclass(frozen=True)
class RemoteFile:
    """What readers of story files ask of a `Path`, for a file behind a URL.

    Attributes:
        url: where it is.
        size: bytes, when it was found.
    """

    url: str
    size: int

    def __str__(self) -> str:
        return self.url

    def as_posix(self) -> str:
        """See `Path`."""
        return self.url

    @property
    def name(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        """See `Path`."""
        return PurePosixPath(self.url).suffix

    def is_file(self) -> bool:
        """See `Path`: no folder is ever made one of these."""
        return True

    def stat(self) -> SimpleNamespace:
        """See `Path`; knows the size only."""
        return SimpleNamespace(st_size=self.size)

    def open(self, _mode: str = "rb") -> BinaryIO:
        """Open for reading bytes."""
        system, path = _file_system(self.url)
        with _reaching(self.url):
            return io.BufferedReader(system.open(path, "rb"), _BUFFER_BYTES)


def find_files(url: str) -> tuple[bool, list[Path]]:
    """Return whether a URL is one file, and all files that it stands for: also a folder, a glob.

    Raises:
        InputError: its file system is not known, not installed or does not answer.
    """
    system, path = _file_system(url)
    with _reaching(url):
        if any(character in path for character in "*?["):
            found, base = system.glob(path, detail=True), ""
        elif system.isfile(path):
            return True, _files(system, {path: system.info(path)})
        else:
            found, base = system.find(path, detail=True), path.rstrip("/") + "/"
    seen = {
        name: info
        for name, info in found.items()
        if not any(part.startswith(".") for part in name.removeprefix(base).split("/"))
    }
    return False, _files(system, seen)


def _files(system: "AbstractFileSystem", found: dict[str, dict[str, Any]]) -> list[Path]:
    files = [
        RemoteFile(system.unstrip_protocol(name), int(info["size"] or 0))
        for name, info in found.items()
        if info["type"] == "file"
    ]
    return cast(list[Path], files)  # readers ask no more of them than a RemoteFile has


class RemoteFolder:
    """A folder behind a URL. Names in it are relative, with `/` between their parts."""

    def __init__(self, url: str) -> None:
        """Find its file system; the folder itself need not exist."""
        self.url = url
        self._system, path = _file_system(url)
        self._root = path.rstrip("/")
        self._made: set[str] = set()

    def fetch(self, name: str, to: Path) -> bool:
        """Copy a file from there; False if there is none."""
        with _reaching(self.url):
            try:
                to.parent.mkdir(parents=True, exist_ok=True)
                self._system.get_file(f"{self._root}/{name}", str(to))
            except FileNotFoundError:
                return False
        return True

    def put(self, path: Path, name: str) -> None:
        """Copy a file there, over what stands under that name."""
        with _reaching(self.url):
            target = f"{self._root}/{name}"
            folder = target.rpartition("/")[0]
            if folder not in self._made:  # object stores need none, and would look each time
                self._system.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            self._system.put_file(str(path), target)

    def names(self, folder: str) -> list[str]:
        """Return the last parts of the names of the files in a folder, none if it is not there."""
        with _reaching(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return []
        return [PurePosixPath(info["name"]).name for info in found if info["type"] == "file"]

    def remove(self, folder: str) -> None:
        """Remove a folder and all in it, if it is there."""
        with _reaching(self.url):
            self._system.invalidate_cache()
            if self._system.exists(f"{self._root}/{folder}"):
                self._system.rm(f"{self._root}/{folder}", recursive=True)
            self._made.clear()


def _file_system(url: str) -> tuple["AbstractFileSystem", str]:
    """Return the file system of a URL, and the path in it."""
    import fsspec

    if "::" in url:  # one file system inside another: nobody could say any more what is read
        raise InputError(f"{url} chains file systems", "give one plain URL")
    try:
        with _reaching(url, ImportError, ValueError):
            return fsspec.core.url_to_fs(url)
    except ImportError as error:
        hint = "install the package that the message names"
        raise InputError(f"{url} needs a package that is not installed: {error}", hint) from None
    except ValueError as error:
        raise InputError(f"{url}: {error}", "known are s3, gs, az, hf, http and others") from None


@contextmanager
def _reaching(url: str, *told_elsewhere: type[Exception]) -> Iterator[None]:
    """Name the URL where its file system fails; each raises errors of its own library."""
    try:
        yield
    except told_elsewhere:
        raise
    except Exception as error:
        what = f"{url} cannot be reached: {type(error).__name__}: {error}"
        raise InputError(what, "check the address, the network and your credentials") from error
