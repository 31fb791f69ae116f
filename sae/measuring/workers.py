"""A function of images, called for many of them by all cores, picking up where it stopped."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from sae import console, images
from sae.errors import SaeError, in_words

# A process of its own costs seconds to start; fewer images are not worth one.
_IMAGES_PER_WORKER = 4


def readable(paths: Sequence[Path]) -> list[Path]:
    """Returns those of the paths at which there is an image; warns of the others.

    Raises:
      SaeError: there is none.
    """
    found = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images.read(path)
            found.append(path)
        except SaeError as error:
            warnings.warn(f"{error} It is left out.", stacklevel=3)
    if not found:
        raise SaeError(f"None of the {len(paths)} images can be read.")
    return found


def each(
    function: Callable[[Path], list | str],
    paths: Sequence[Path],
    description: str,
    journal: Path | None = None,
    subject: dict | None = None,
) -> list[list | str]:
    """Returns function(path) for every path, in their order.

    Args:
      function: to call; can be pickled, and returns JSON values, or a string where it
        failed (`attempt`), which no journal keeps.
      paths: of the images.
      description: of the progress bar.
      journal: a file that keeps each result as it comes, so that a call that was
        interrupted goes on there; the caller removes it when all is saved.
      subject: JSON of what is measured. A journal of something else, or of an
        image that has changed since, does not count.
    """
    keys = [{**(subject or {}), "image": [str(p), *_state(p)]} for p in paths]
    names = [json.dumps(key, sort_keys=True) for key in keys]
    known = _read(journal) if journal else {}
    results: dict[int, list | str] = {
        index: known[name] for index, name in enumerate(names) if name in known
    }
    missing = [index for index in range(len(paths)) if index not in results]
    with tqdm(
        total=len(paths), initial=len(paths) - len(missing), desc=description, unit="image"
    ) as bar:
        for index, result in _calls(function, [(i, paths[i]) for i in missing]):
            results[index] = result
            if journal and not isinstance(result, str):
                _append(journal, [names[index], result])
            bar.update()
    return [results[index] for index in range(len(paths))]


def attempt(function: Callable[[Path], list], path: Path) -> list | str:
    """Returns function(path), or the sentence that says why there is none."""
    try:
        return function(path)
    except SaeError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    # Whatever one image brings about, the others are measured.
    except Exception as error:
        return f"{path} cannot be measured ({in_words(error)})."


def _calls(
    function: Callable[[Path], list | str], tasks: Sequence[tuple[int, Path]]
) -> Iterator[tuple[int, list | str]]:
    """Yields the results of the tasks as they come."""
    workers = min(os.cpu_count() or 1, len(tasks) // _IMAGES_PER_WORKER)
    if workers < 2:
        for index, path in tasks:
            yield index, function(path)
        return
    left = dict(tasks)
    try:
        for index, result in _pooled(function, dict(tasks), workers):
            del left[index]
            yield index, result
    except BrokenProcessPool:
        # One of these images is the cause; each gets a process of its own.
        for index, path in left.items():
            try:
                yield from _pooled(function, {index: path}, 1)
            except BrokenProcessPool:
                yield index, f"{path}: Its process was ended, as where memory is short."


def _pooled(
    function: Callable[[Path], list | str], tasks: dict[int, Path], workers: int
) -> Iterator[tuple[int, list | str]]:
    """Yields the results of so many processes; none of these outlives what ends the call."""
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with concurrent.futures.ProcessPoolExecutor(workers, context, _begin) as pool:
        futures = {pool.submit(function, path): index for index, path in tasks.items()}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for child in set(multiprocessing.active_children()) - set(others):
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Prepares a process: it leaves Ctrl-C to its parent, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    console.show_warnings()


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _append(journal: Path, entry: list) -> None:
    """Adds a line to a journal; raises SaeError where that cannot be written."""
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a") as file:
            # The break comes first, since the last line may have been cut short.
            file.write("\n" + json.dumps(entry))
    except OSError as error:
        raise SaeError(f"Cannot write {journal}: {error.strerror or error}.") from error


def _read(journal: Path) -> dict[str, list]:
    """Returns the results in a journal, passing over lines that were cut short."""
    known = {}
    if journal.exists():
        for line in journal.read_text(errors="replace").splitlines():
            try:
                key, result = json.loads(line)
                known[key] = list(result)
            except (ValueError, TypeError):
                continue
    return known
