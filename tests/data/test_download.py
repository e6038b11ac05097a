"""Downloads against a server on this machine that answers, refuses, breaks off or lies."""

import hashlib
import http.server
import threading
import traceback
from pathlib import Path

import pytest

from fewshot_lib.data import download
from fewshot_lib.data.cache import cache_dir
from fewshot_lib.data.download import RemoteFile, checksums, fetch
from fewshot_lib.data.reporting import DataError

CONTENT = bytes(range(256)) * 2000
LOGIN_PAGE = b"<!DOCTYPE html><html><title>Please log in</title></html>"


class Server:
    """Answers each request with the next of ``answers`` (the last one again and again): (status, content, bytes to send)."""

    def __init__(self):
        self.answers, self.requests = [(200, CONTENT, len(CONTENT))], 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, content, sent = server.answers[min(server.requests, len(server.answers) - 1)]
                server.requests += 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:sent])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/set/file.bin"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEWSHOT_STATIC", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    server = Server()
    yield server
    server.close()


def remote(server, **changes) -> RemoteFile:
    return RemoteFile(**{"path": "set/file.bin", "url": server.url, "checksum": "sha256:" + hashlib.sha256(CONTENT).hexdigest()} | changes)


def read(path: Path) -> int:
    if path.read_bytes() != CONTENT:
        raise DataError(f"{path.name} is not the expected content.")
    return len(CONTENT)


def kept() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache_dir("downloads", "set").iterdir()}


def test_a_file_is_downloaded_once_and_then_kept(server):
    assert fetch(remote(server), read) == len(CONTENT)
    assert kept() == {"file.bin": CONTENT}
    assert fetch(remote(server), read) == len(CONTENT)
    assert server.requests == 1


def test_the_mirror_comes_before_the_network(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror/set").mkdir(parents=True)
    (tmp_path / "mirror/set/repacked.bin").write_bytes(CONTENT)
    assert fetch(remote(server, also=("set/repacked.bin",)), read) == len(CONTENT)
    assert server.requests == 0
    assert fetch(remote(server), read) == len(CONTENT), "a mirror without the file does not stop the download"
    assert server.requests == 1


def test_a_wrong_file_in_the_mirror_is_an_error_not_a_reason_to_download(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="found through FEWSHOT_DATA"):
        fetch(remote(server), read)
    assert server.requests == 0
    assert (tmp_path / "set/file.bin").read_bytes() == b"something else"


def test_a_mirror_that_is_no_directory_is_named(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere.*not a directory"):
        fetch(remote(server), read)


@pytest.mark.parametrize("failure", [(200, CONTENT, 70_000), (503, b"busy", 4)], ids=["broken off", "server error"])
def test_a_failed_transfer_is_tried_again(server, failure):
    server.answers = [failure, failure, (200, CONTENT, len(CONTENT))]
    assert fetch(remote(server), read) == len(CONTENT)
    assert server.requests == 3
    assert kept() == {"file.bin": CONTENT}


@pytest.mark.parametrize(
    ("answer", "requests", "words"),
    [
        ((200, CONTENT, 70_000), 3, "broke off the transfer 3 times"),
        ((503, b"busy", 4), 3, "answers 503"),
        ((404, b"no", 2), 1, "answers 404"),
        ((200, LOGIN_PAGE, len(LOGIN_PAGE)), 1, "is not the expected content"),
        ((200, CONTENT[:-1], len(CONTENT) - 1), 1, "is not the expected content"),
        ((200, b"", 0), 1, "is not the expected content"),
    ],
    ids=["broken off", "server error", "not found", "web page", "truncated", "empty"],
)
def test_a_download_that_fails_leaves_nothing_behind(server, answer, requests, words):
    server.answers = [answer]
    with pytest.raises(DataError, match=words) as error:
        fetch(remote(server), read)
    assert server.requests == requests
    assert kept() == {}
    assert "file.bin" in str(error.value) and ".part" not in str(error.value)


def test_a_damaged_file_is_replaced_with_a_warning_once_a_good_one_is_there(server):
    fetch(remote(server), read)
    (cache_dir("downloads", "set") / "file.bin").write_bytes(CONTENT[:1000])
    server.answers = [(200, LOGIN_PAGE, len(LOGIN_PAGE))]
    with pytest.warns(UserWarning, match="downloaded again"), pytest.raises(DataError):
        fetch(remote(server), read)
    assert kept() == {"file.bin": CONTENT[:1000]}, "a failed download touches nothing"
    server.answers = [(200, CONTENT, len(CONTENT))]
    with pytest.warns(UserWarning, match="downloaded again"):
        assert fetch(remote(server), read) == len(CONTENT)
    assert kept() == {"file.bin": CONTENT}


def test_an_interruption_leaves_nothing_behind(server):
    def interrupted(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server), interrupted)
    assert kept() == {}


def test_without_network_one_error_says_what_to_put_where(server, monkeypatch, tmp_path):
    file = remote(server)
    server.close()
    with pytest.raises(DataError, match="no connection to 127.0.0.1") as error:
        fetch(file, read)
    text = str(error.value)
    for part in (file.path, file.url, file.checksum, "FEWSHOT_DATA=DIRECTORY", str(tmp_path / "cache/downloads/set/file.bin")):
        assert part in text
    shown = "".join(traceback.format_exception(error.value))
    assert "urllib3" not in shown and "requests/" not in shown and "Traceback" in shown
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        fetch(file, read)
    assert str(tmp_path / "set/file.bin") in str(error.value)


def test_the_progress_bar_is_silent_in_headless_runs_only(server, monkeypatch, capfd):
    fetch(remote(server), read)
    assert capfd.readouterr() == ("", "")
    monkeypatch.delenv("FEWSHOT_STATIC")
    fetch(remote(server, path="set/other.bin"), read)
    shown = capfd.readouterr()
    assert shown.out == "" and "100%" in shown.err


def test_checksums_are_the_ones_that_the_tools_print():
    # printf 'hello\n' | sha256sum; … | md5sum; … | git hash-object --stdin
    assert checksums(b"hello\n") == {
        "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "md5:b1946ac92492d2347c6235b4d2611184",
        "git:ce013625030ba8dba906f756967f9e9ca394464a",
    }
