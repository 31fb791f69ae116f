"""The Kodak downloader, against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import re
import threading
from pathlib import Path

import pytest

KODAK = Path(__file__).parents[1] / "kodak"
FILES = {
    "kodim01.png": bytes(range(256)) * 500,
    "kodim02.png": b"portrait" * 9000,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.faults` are spent first, one per request."""

    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.requests.append((self.path, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else None
        body = self.server.files.get(self.path.lstrip("/"))
        if body is None or fault == 503:
            return self.send_error(fault or 404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if not self.server.ranges:
            start = 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + 1000] if fault == "cut" else body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults, server.ranges, server.requests = dict(FILES), [], True, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def download(monkeypatch):
    spec = importlib.util.spec_from_file_location("kodak_download", KODAK / "download.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    return module


@pytest.fixture
def run(download, server, tmp_path):
    """Runs the downloader into `run.folder`; returns its exit status."""
    sums = tmp_path / "SHA256SUMS"
    lines = (f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in FILES.items())
    sums.write_text("".join(lines))

    def run(url=f"http://127.0.0.1:{server.server_port}/"):
        return download.main(["--folder", str(run.folder), "--url", url, "--sums", str(sums)])

    run.folder = tmp_path / "kodak"
    return run


def assert_complete(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


def test_downloads_once(run, server):
    assert run() == 0
    assert_complete(run.folder)
    assert server.requests == [("/kodim01.png", None), ("/kodim02.png", None)]
    assert run() == 0
    assert len(server.requests) == 2


def test_resumes_a_partial_file(run, server):
    run.folder.mkdir()
    (run.folder / "kodim01.png.part").write_bytes(FILES["kodim01.png"][:777])
    assert run() == 0
    assert_complete(run.folder)
    assert server.requests[0] == ("/kodim01.png", "bytes=777-")


def test_resumes_after_a_cut_connection(run, server):
    server.faults = ["cut", "cut"]
    assert run() == 0
    assert_complete(run.folder)
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=2000-", None]


def test_takes_up_a_part_that_was_whole(run, server):
    run.folder.mkdir()
    (run.folder / "kodim01.png.part").write_bytes(FILES["kodim01.png"])
    assert run() == 0
    assert_complete(run.folder)
    assert server.requests == [("/kodim02.png", None)]


def test_starts_over_without_range_support(run, server):
    server.ranges = False
    run.folder.mkdir()
    (run.folder / "kodim01.png.part").write_bytes(FILES["kodim01.png"][:777])
    assert run() == 0
    assert_complete(run.folder)


@pytest.mark.parametrize("rubbish", [b"not the beginning", b"too long" * 99999])
def test_starts_over_from_a_wrong_part(run, rubbish):
    run.folder.mkdir()
    (run.folder / "kodim01.png.part").write_bytes(rubbish)
    assert run() == 0
    assert_complete(run.folder)


def test_replaces_a_wrong_file(run):
    run.folder.mkdir()
    (run.folder / "kodim02.png").write_bytes(FILES["kodim02.png"][:-1])
    assert run() == 0
    assert_complete(run.folder)


def test_a_wrong_sum_leaves_nothing(run, server, capsys):
    server.files["kodim02.png"] = b"<html>log in first</html>"
    assert run() == 2
    assert "another SHA-256" in capsys.readouterr().err
    assert [path.name for path in run.folder.iterdir()] == ["kodim01.png"]


def test_survives_a_busy_server(run, server):
    server.faults = [503, 503]
    assert run() == 0
    assert_complete(run.folder)


def test_a_missing_file_is_not_asked_for_again(run, server, capsys):
    del server.files["kodim02.png"]
    assert run() == 2
    assert "HTTP 404" in capsys.readouterr().err
    assert [path for path, _ in server.requests] == ["/kodim01.png", "/kodim02.png"]


def test_without_a_network_says_what_to_do(run, server, capsys):
    server.server_close()
    assert run() == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    for part in ("/kodim01.png", "refused", str(run.folder), "sha256sum -c"):
        assert part in sentence


def test_a_folder_that_cannot_be_made(run, capsys):
    run.folder.write_text("a file")
    assert run() == 2
    assert capsys.readouterr().err.startswith("Cannot write")


def test_the_sums_name_the_24_images(download):
    sums = download.read_sums(KODAK / "SHA256SUMS")
    assert list(sums) == [f"kodim{number:02d}.png" for number in range(1, 25)]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in sums.values())
    present = [name for name in sums if (KODAK / name).exists()]
    assert [name for name in present if not download.is_right(KODAK / name, sums[name])] == []
