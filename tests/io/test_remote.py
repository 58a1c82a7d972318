"""Corpora behind a URL: the same stories and fingerprint as on the local disk."""

import functools
import gzip
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data.corpus import MissingSplitError, open_corpus
from tinyohem.errors import InputError
from tinyohem.io.compressed import compress
from tinyohem.io.remote import RemoteFolder, is_url

LINES = "".join(json.dumps({"text": f"Story {n}. Zoë ran."}) + "\n" for n in range(30)).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of each kind, and one that no corpus should hold."""
    stories = tmp_path / "stories"
    (stories / "a").mkdir(parents=True)
    (stories / ".hidden").mkdir()
    (stories / ".hidden/x.jsonl").write_bytes(LINES)
    (stories / "notes.md").write_text("no story")
    (stories / "a/z.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES)
    (stories / "a.jsonl.zst").write_bytes(compress(LINES))
    (stories / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    (stories / "c.txt").write_text("One.<|endoftext|>\nTwo.<|endoftext|>")
    (stories / "d.json").write_text(json.dumps([{"text": "Three."}]))
    pq.write_table(pa.table({"text": ["Four.", "Five."]}), stories / "e.parquet")
    (stories / "f.parquet.zst").write_bytes(compress((stories / "e.parquet").read_bytes()))
    return stories


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The same folder in a file system in memory."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/bucket/stories/", recursive=True)
    yield "memory://bucket/stories"
    memory.rm("/bucket", recursive=True)


def test_is_url_tells_urls_from_paths() -> None:
    assert [
        name for name in ("s3://b/k", "hf://x", "a/b", "C:\\x", "./s3://b") if is_url(name)
    ] == [
        "s3://b/k",
        "hf://x",
    ]


def test_a_folder_elsewhere_holds_the_stories_that_it_holds_here(folder: Path, bucket: str) -> None:
    here, there = open_corpus(str(folder)), open_corpus(bucket)
    assert there.fingerprint == here.fingerprint
    assert list(there.stories()) == list(here.stories())
    assert len(list(here.stories())) == 30 * 3 + 2 + 1 + 2 + 2
    blocks = [[*block.texts()] for block, _ in there.blocks()]
    assert blocks == [[*block.texts()] for block, _ in here.blocks()]
    assert [share for _, share in there.blocks()] == [share for _, share in here.blocks()]


@pytest.mark.parametrize(
    "name", ["a/z.jsonl", "a.jsonl.zst", "b.jsonl.gz", "c.txt", "d.json", "e.parquet", "*.jsonl.*"]
)
def test_a_file_or_a_glob_elsewhere(folder: Path, bucket: str, name: str) -> None:
    here, there = open_corpus(f"{folder}/{name}"), open_corpus(f"{bucket}/{name}")
    assert there.fingerprint == here.fingerprint
    assert list(there.stories()) == list(here.stories())


def test_splits_are_told_apart_by_the_names_below_the_folder(folder: Path, bucket: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.mv("/bucket/stories/c.txt", "/bucket/training/stories/valid.txt")
    memory.mv("/bucket/stories/e.parquet", "/bucket/training/stories/rest.parquet")
    found = open_corpus("memory://bucket/training", "validation")
    assert [story.text for story in found.stories()] == ["One.", "Two."]
    assert [s.text for s in open_corpus("memory://bucket/training").stories()] == ["Four.", "Five."]
    with pytest.raises(MissingSplitError):
        open_corpus("memory://bucket/stories/a/z.jsonl", "validation")


def test_what_is_broken_elsewhere_is_named_by_its_url(bucket: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/stories/a/z.jsonl", LINES + b'{"text": 3}\n')
    with pytest.raises(InputError, match=r"^memory://\S*a/z\.jsonl:31: the story is of type int"):
        list(open_corpus(f"{bucket}/a").stories())
    memory.pipe("/bucket/stories/a/z.jsonl.gz", gzip.compress(LINES)[:-9])
    with pytest.raises(InputError, match=r"^memory://\S*z\.jsonl\.gz cannot be read"):
        list(open_corpus(f"{bucket}/a/z.jsonl.gz").stories())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", "holds no story file"),
        ("memory://nowhere/a.jsonl", "holds no story file"),
        ("nonsense://bucket", "nonsense"),
        ("zip://a.jsonl::memory://bucket/stories.zip", "chains"),
        ("ftp://127.0.0.1:9/a.jsonl", "cannot be reached: ConnectionRefusedError"),
    ],
)
def test_a_url_that_leads_nowhere_is_an_input_error(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_corpus(url)
    assert caught.value.hint


def test_a_file_system_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = import_module("fsspec.registry").known_implementations
    missing = {"class": "no_such_package.FileSystem", "err": "Install no_such_package"}
    monkeypatch.setitem(known, "far", missing)
    with pytest.raises(InputError, match="Install no_such_package"):
        open_corpus("far://bucket/a.jsonl")


def test_a_remote_folder_gives_back_what_was_put_into_it(tmp_path: Path) -> None:
    far = RemoteFolder("memory://written/scores/")
    (tmp_path / "one").write_text("1")
    assert far.names("part") == []
    assert not far.fetch("part/one", tmp_path / "two")
    far.remove("part")
    far.put(tmp_path / "one", "part/one")
    (tmp_path / "one").write_text("2")
    far.put(tmp_path / "one", "part/one")
    assert far.names("part") == ["one"]
    assert far.fetch("part/one", tmp_path / "new/two")
    assert (tmp_path / "new/two").read_text() == "2"
    far.remove("part")
    assert far.names("part") == []
    assert not far.fetch("part/one", tmp_path / "two")
    assert not (tmp_path / "two").exists()


class WebHandler(http.server.SimpleHTTPRequestHandler):
    """A server without ranges, like `python -m http.server`, with some broken answers."""

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        how, _, name = self.path.strip("/").partition("/")
        body = LINES if name.endswith(".jsonl") else gzip.compress(LINES)
        match how:
            case "error":
                self.send_error(int(name[:3]))
            case "moved":
                self.send_response(302)
                self.send_header("Location", f"/{name}")
                self.end_headers()
            case "cut":
                self.answer(body[: len(body) // 2], {"Content-Length": str(len(body))})
            case "packed":
                self.answer(gzip.compress(LINES), {"Content-Encoding": "gzip"})
            case "dropped":
                self.close_connection = True
            case "nohead" if self.command == "HEAD":
                self.send_error(405)
            case "nohead":
                self.answer(body, {})
            case _ if self.command == "HEAD":
                super().do_HEAD()
            case _:
                super().do_GET()

    def answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The same folder behind a web server."""
    (folder / "with space.jsonl").write_bytes(LINES)
    (folder / "100%.jsonl").write_bytes(LINES)
    handler = functools.partial(WebHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestWeb:
    @pytest.mark.parametrize(
        "name",
        [
            "a/z.jsonl",
            "a.jsonl.zst",
            "b.jsonl.gz",
            "c.txt",
            "d.json",
            "e.parquet",
            "f.parquet.zst",
            "with%20space.jsonl",
            "with space.jsonl",
            "100%25.jsonl",
            "b.jsonl.gz?download=true",
            "a/z.jsonl?name=x.parquet#part",
            "moved/a/z.jsonl",
        ],
    )
    def test_a_file_holds_the_stories_that_it_holds_here(
        self, folder: Path, web: str, name: str
    ) -> None:
        path = unquote(urlsplit(name).path).removeprefix("moved/")
        here, there = open_corpus(str(folder / path)), open_corpus(f"{web}/{name}")
        assert there.fingerprint == here.fingerprint
        assert list(there.stories()) == list(here.stories())
        blocks = [[*block.texts()] for block, _ in there.blocks()]
        assert blocks == [[*block.texts()] for block, _ in here.blocks()]

    @pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
    @pytest.mark.parametrize("how", ["packed", "nohead"])
    def test_what_a_server_compresses_or_does_not_measure_is_read(
        self, web: str, how: str, name: str
    ) -> None:
        stories = [story.text for story in open_corpus(f"{web}/{how}/{name}").stories()]
        assert stories == [json.loads(line)["text"] for line in LINES.splitlines()]

    def test_a_listing_is_a_folder_and_a_star_a_glob(self, folder: Path, web: str) -> None:
        names = sorted(path.name for path in open_corpus(f"{web}/*.jsonl*").files)
        assert names == ["100%.jsonl", "a.jsonl.zst", "b.jsonl.gz", "with space.jsonl"]
        assert [path.name for path in open_corpus(f"{web}/a/").files] == ["z.jsonl"]

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            ("nowhere.jsonl", "cannot be read: the server answers 404"),
            ("error/403.jsonl", "cannot be read: the server answers 403 Forbidden"),
            ("error/500.jsonl", "cannot be read: the server answers 500 Internal Server Error"),
            ("error/503.txt.gz", "cannot be read: the server answers 503 Service Unavailable"),
            ("cut/x.jsonl", "cannot be read: the connection broke"),
            ("cut/x.jsonl.gz", "cannot be read: the connection broke"),
            ("cut/x.parquet", "cannot be read: the connection broke"),
            ("dropped/x.jsonl", "cannot be reached: ServerDisconnectedError"),
            ("notes.md", "is no story file"),
        ],
    )
    def test_a_web_error_is_reported_in_one_line(self, web: str, name: str, fault: str) -> None:
        with pytest.raises(InputError) as caught:
            list(open_corpus(f"{web}/{name}").stories())
        assert caught.value.message.startswith(f"{web}/{name} {fault}")
        assert "\n" not in caught.value.message
        assert caught.value.hint

    def test_a_connection_that_breaks_after_the_first_read_is_reported(
        self, web: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = open_corpus(f"{web}/a/z.jsonl")
        monkeypatch.setattr(
            WebHandler,
            "do_GET",
            lambda self: self.answer(LINES[:99], {"Content-Length": str(len(LINES))}),
        )
        with pytest.raises(InputError, match="the connection broke"):
            list(opened.stories())

    def test_a_refused_port_and_an_unknown_host_are_reported(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/a.jsonl", "http://nowhere.invalid/a.jsonl"):
            with pytest.raises(InputError, match="cannot be reached: ClientConnector") as caught:
                open_corpus(url)
            assert "\n" not in caught.value.message

    def test_a_command_reports_a_web_error_in_two_lines(
        self, web: str, tinyohem: tiny.Command
    ) -> None:
        result = tinyohem("prepare-data", "--dataset", f"{web}/error/500.jsonl")
        assert result.code == 2
        assert [line.partition(":")[0] for line in result.err.splitlines()] == ["error", "hint"]
