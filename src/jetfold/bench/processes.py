"""Calls in processes of their own, which have done nothing before.

Where the system can, they are forked from a process that has imported the frameworks and no more:
a process costs a tenth of a second then, and is as clean as a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Job = Callable[..., Any]
"""(tell, *arguments) -> a result; `tell(word)` says what happens next."""


class Died(RuntimeError):
    """A process ended without a result.

    Attributes:
        during: what it had told last.
    """

    def __init__(self, reason: str, during: str) -> None:
        super().__init__(reason)
        self.during = during


class Processes:
    """Runs jobs in a process each.

    Args:
        preload: modules that the processes find imported.
        log: a file for what they write to the terminal; None: the terminal.
        environment: variables that they find set.
    """

    def __init__(
        self,
        preload: list[str],
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        forks = sys.platform == "linux" and hasattr(os, "fork")
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(preload)
        self.log = log
        self.environment = dict(environment or {})
        self._alive: set[Any] = set()

    def __call__(
        self,
        job: Job,
        *arguments: Any,
        patience: float = 600.0,
        tell: Callable[[str], object] = lambda word: None,
    ) -> Any:
        """The result of a job.

        Args:
            job: a function of a module; arguments and result are pickled.
            patience: seconds without a word after which the process is ended.
            tell: is told what the job tells.

        Raises:
            Died: it took too long, it was ended by the system, or it raised (what, is said).
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_main, args=(theirs, self.log, self.environment, job, arguments), daemon=True
        )
        process.start()
        self._alive.add(process)
        theirs.close()
        during = ""
        try:
            while True:
                if not ours.poll(patience):
                    raise Died(f"nothing happened for {patience:g} s", during)
                kind, content = ours.recv()
                if kind == "done":
                    return content
                if kind == "raised":
                    raise Died(content, during)
                during = content
                tell(content)
        except EOFError:
            process.join()
            code = process.exitcode
            reason = "perhaps it ran out of memory" if code == -signal.SIGKILL else "it crashed"
            raise Died(f"the process ended with status {code}: {reason}", during) from None
        finally:
            process.kill()
            process.join()
            self._alive.discard(process)
            ours.close()

    def stop(self) -> None:
        """End all of them."""
        for process in tuple(self._alive):
            process.kill()


def here(
    job: Job,
    *arguments: Any,
    patience: float = 0.0,
    tell: Callable[[str], object] = lambda word: None,
) -> Any:
    """The same as `Processes`, in this process: for tests."""
    try:
        return job(tell, *arguments)
    except Exception as error:
        raise Died(f"{type(error).__name__}: {error}", "") from error


def _main(
    connection: Connection,
    log: Path | None,
    environment: Mapping[str, str],
    job: Job,
    arguments: Any,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    os.environ.update(environment)
    if log is not None:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(to, 1)
        os.dup2(to, 2)
    start = time.perf_counter()
    try:
        outcome = ("done", job(lambda word: connection.send(("at", word)), *arguments))
    except BaseException as error:
        outcome = ("raised", f"{type(error).__name__}: {error}")
    if log is not None:
        took = f"{time.perf_counter() - start:.1f} s ({time.process_time():.1f} s of processor)"
        print(time.strftime("%H:%M:%S"), took, job.__name__, *arguments[:1], flush=True)
    connection.send(outcome)
