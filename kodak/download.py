"""Downloads the 24 Kodak images into this folder and checks each: `make kodak`.

Needs the standard library alone. A file that is there and right stays; one cut
short, in this run or an earlier one, goes on where it stopped (`NAME.part`).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
URL = "https://r0k.us/graphics/kodak/kodak"
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 30  # seconds without a byte


class DownloadError(Exception):
    """The reason why a file cannot be downloaded; `again` where another attempt may succeed."""

    def __init__(self, message: object, again: bool = True):
        super().__init__(message)
        self.again = again


def read_sums(path: Path) -> dict[str, str]:
    """Returns {file name: SHA-256} from a file that `sha256sum -c` reads.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is of another kind.
    """
    lines = filter(str.strip, path.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def is_right(path: Path, digest: str) -> bool:
    """Whether `path` is a file with this SHA-256 (hexadecimal)."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def fetch(url: str, path: Path, digest: str) -> None:
    """Downloads `url` to `path`, whole and with this SHA-256, or leaves `path` alone.

    Raises:
      DownloadError: not to be had in `ATTEMPTS` attempts.
      OSError: `path` cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    for attempt in range(ATTEMPTS):
        try:
            if not is_right(part, digest):
                _receive(url, part)
            if not is_right(part, digest):
                part.unlink()
                raise DownloadError("what came has another SHA-256")
            part.replace(path)
            return
        except DownloadError as error:
            if not error.again or attempt == ATTEMPTS - 1:
                raise
        time.sleep(PAUSE * 2**attempt)


def _receive(url: str, part: Path) -> None:
    """Appends to `part` what it lacks, or replaces it where the server sends all of `url`."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "sae", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no such range: `part` is not the beginning of this file
            part.unlink()
        again = error.code in (416, 429) or error.code >= 500
        raise DownloadError(f"HTTP {error.code} {error.reason}", again) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(getattr(error, "reason", error)) from error
    except ValueError as error:  # The text is not a URL.
        raise DownloadError(error, again=False) from error
    with response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with part.open("ab" if resumed else "wb") as file:
            for block in _blocks(response):
                file.write(block)


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yields the body as it comes; raises DownloadError where it stops short."""
    missing = int(response.headers.get("Content-Length", 0))
    while True:
        try:
            block = response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(error) from error
        if not block:
            break
        missing -= len(block)
        yield block
    if missing > 0:
        raise DownloadError("the connection closed early")


def main(arguments: list[str] | None = None) -> int:
    """Downloads what is missing or wrong; returns the exit status (2 where it cannot)."""
    parser = argparse.ArgumentParser(prog="download.py", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=HERE, help="folder to write [this one]")
    parser.add_argument("--url", default=URL, help=f"address of the images [{URL}]")
    parser.add_argument(
        "--sums",
        type=Path,
        default=HERE / "SHA256SUMS",
        help="file of SHA-256 sums and names of the images [SHA256SUMS]",
    )
    options = parser.parse_args(arguments)
    try:
        sums = read_sums(options.sums)
    except (OSError, ValueError) as error:
        print(
            f"Cannot read the SHA-256 in {options.sums} ({error}); name such a file with --sums.",
            file=sys.stderr,
        )
        return 2
    for number, (name, digest) in enumerate(sums.items(), start=1):
        url, path = f"{options.url.rstrip('/')}/{name}", options.folder / name
        # On a terminal, one line that counts up.
        end = "\r" if sys.stdout.isatty() and number < len(sums) else "\n"
        print(f"{number:2d}/{len(sums)}  {name}", end=end, flush=True)
        try:
            options.folder.mkdir(parents=True, exist_ok=True)
            if not is_right(path, digest):
                fetch(url, path, digest)
        except DownloadError as error:
            print(
                f"Cannot download {url} ({error}): try again later, or get the {len(sums)} files "
                f"named in {options.sums} elsewhere, put them into {options.folder} and "
                f"check them there with `sha256sum -c {options.sums}`.",
                file=sys.stderr,
            )
            return 2
        except OSError as error:
            print(f"Cannot write {path}: {error.strerror or error}.", file=sys.stderr)
            return 2
    print(f"{options.folder} holds the {len(sums)} images, each as its SHA-256 demands.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # A partial file stays, since the next call resumes it.
        sys.exit(130)
