"""Downloads against a server on this machine that answers, refuses, breaks off or lies."""

import hashlib
import http.server
import threading
import traceback
from pathlib import Path

import pytest

from fewshot_lib.data.cache import CacheError, cache_dir
from fewshot_lib.data.published import download
from fewshot_lib.data.published.download import fetch
from fewshot_lib.data.reporting import DataError

CONTENT = bytes(range(256)) * 2000
LOGIN_PAGE = b"<!DOCTYPE html><html><title>Please log in</title></html>"


class Server:
    """Answers each request with the next (status, content, bytes to send) of ``answers``, or the last."""

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


def remote(server, **changes) -> dict:
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    return {"path": "set/file.bin", "url": server.url, "checksum": checksum} | changes


def read(path: Path) -> int:
    if path.read_bytes() != CONTENT:
        raise DataError(f"{path.name} is not the expected content.")
    return len(CONTENT)


def kept() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache_dir("downloads", "set").iterdir()}


def test_a_file_is_downloaded_once_and_then_kept(server):
    for _ in range(2):
        assert fetch(remote(server), read) == len(CONTENT)
        assert server.requests == 1 and kept() == {"file.bin": CONTENT}


def test_the_mirror_comes_before_the_network(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror/set").mkdir(parents=True)
    (tmp_path / "mirror/set/repacked.bin").write_bytes(CONTENT)
    assert fetch(remote(server, also=("set/repacked.bin",)), read) == len(CONTENT)
    assert server.requests == 0
    assert fetch(remote(server), read) == len(CONTENT), "a mirror without the file does not stop the download"
    assert server.requests == 1


def test_a_wrong_mirror_is_an_error_not_a_reason_to_download(server, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match="found through FEWSHOT_DATA"):
        fetch(remote(server), read)
    assert (tmp_path / "set/file.bin").read_bytes() == b"something else"
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere.*not a directory"):
        fetch(remote(server), read)
    assert server.requests == 0


@pytest.mark.parametrize("failure", [(200, CONTENT, 70_000), (503, b"busy", 4)], ids=["broken off", "busy"])
def test_a_failed_transfer_is_tried_again(server, failure):
    server.answers = [failure, failure, (200, CONTENT, len(CONTENT))]
    assert fetch(remote(server), read) == len(CONTENT)
    assert server.requests == 3 and kept() == {"file.bin": CONTENT}


@pytest.mark.parametrize(
    ("answer", "requests", "words"),
    [
        ((200, CONTENT, 70_000), 3, "could not be had from the network: .*IncompleteRead"),
        ((503, b"busy", 4), 3, "503 Server Error"),
        ((404, b"no", 2), 1, "404 Client Error"),
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
    assert server.requests == requests and kept() == {}
    assert "file.bin" in str(error.value) and ".part" not in str(error.value)


def test_a_damaged_file_is_replaced_with_a_warning_once_a_good_one_is_there(server):
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


def test_a_full_disk_is_named_and_leaves_nothing_behind(server, monkeypatch):
    def full(url, target, _):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.HTTPDownloader", lambda *args, **options: full)
    with pytest.raises(CacheError, match=r"file\.bin \(No space left on device\)"):
        fetch(remote(server), read)
    assert kept() == {}


def test_without_network_one_error_says_what_to_put_where(server, monkeypatch, tmp_path):
    file = remote(server)
    server.close()
    with pytest.raises(DataError, match="could not be had from the network: .*127.0.0.1") as error:
        fetch(file, read)
    in_cache = str(tmp_path / "cache/downloads/set/file.bin")
    for part in (file["path"], file["url"], file["checksum"], "FEWSHOT_DATA=DIRECTORY", in_cache):
        assert part in str(error.value)
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
