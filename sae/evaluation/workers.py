"""Calls of a function for many images on all cores, resumed after an interruption."""

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

# With fewer images, starting a process would take longer than it saves.
_IMAGES_PER_WORKER = 4


def readable(paths: Sequence[Path]) -> list[Path]:
    """Returns the paths of readable images; warns of the others.

    Raises:
      SaeError: no image can be read.
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
        raise SaeError(f"None of the {len(paths)} images can be read; name another folder.")
    return found


def each(
    function: Callable[[Path], list | str],
    paths: Sequence[Path],
    description: str,
    cache_path: Path | None = None,
    subject: dict | None = None,
) -> list[list | str]:
    """Returns function(path) for every path, in their order.

    Args:
      function: function that can be pickled. It returns JSON values, or the string of a
        failure (`attempt`), which no cache keeps.
      paths: paths of the images.
      description: title of the progress bar.
      cache_path: file of finished results, from which an interrupted call resumes; the caller
        removes it after saving.
      subject: JSON value that identifies the measurement. Entries of another one, or of an
        image that has changed since, are ignored.
    """
    keys = [{**(subject or {}), "image": [str(p), *_state(p)]} for p in paths]
    names = [json.dumps(key, sort_keys=True) for key in keys]
    known = _read(cache_path) if cache_path else {}
    results: dict[int, list | str] = {
        index: known[name] for index, name in enumerate(names) if name in known
    }
    missing = [index for index in range(len(paths)) if index not in results]
    with tqdm(
        total=len(paths), initial=len(paths) - len(missing), desc=description, unit="image"
    ) as bar:
        for index, result in _calls(function, [(i, paths[i]) for i in missing]):
            results[index] = result
            if cache_path and not isinstance(result, str):
                _append(cache_path, [names[index], result])
            bar.update()
    return [results[index] for index in range(len(paths))]


def attempt(function: Callable[[Path], list], path: Path) -> list | str:
    """Returns function(path), or the reason of its failure in a sentence."""
    try:
        return function(path)
    except SaeError as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    # An error in one image must not stop the measurement of the others.
    except Exception as error:
        return f"{path} cannot be measured ({in_words(error)})."


def _calls(
    function: Callable[[Path], list | str], tasks: Sequence[tuple[int, Path]]
) -> Iterator[tuple[int, list | str]]:
    """Yields the results of the tasks in the order of completion."""
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
        # One of these images is the cause, so that each is given a process of its own.
        for index, path in left.items():
            try:
                yield from _pooled(function, {index: path}, 1)
            except BrokenProcessPool:
                yield index, f"{path}: Its process was ended, probably for lack of memory."


def _pooled(
    function: Callable[[Path], list | str], tasks: dict[int, Path], workers: int
) -> Iterator[tuple[int, list | str]]:
    """Yields the results of several processes, which end with the call in any case."""
    # Each process has one core, where several threads of OpenBLAS would only wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    """Prepares a process to ignore Ctrl-C, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    console.show_warnings()


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _append(cache_path: Path, entry: list) -> None:
    """Adds a line to a cache; raises SaeError where the file cannot be written."""
    try:
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        with cache_path.open("a") as file:
            # The line break comes first, since the last line may be incomplete.
            file.write("\n" + json.dumps(entry))
    except OSError as error:
        raise SaeError(
            f"Cannot write {cache_path}: {error.strerror or error}; free it or name another folder."
        ) from error


def _read(cache_path: Path) -> dict[str, list]:
    """Returns the results in a cache, without incomplete lines."""
    known = {}
    if cache_path.exists():
        for line in cache_path.read_text(errors="replace").splitlines():
            try:
                key, result = json.loads(line)
                known[key] = list(result)
            except (ValueError, TypeError):
                continue
    return known
