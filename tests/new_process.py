"""New processes for scripts of tests, without the ten seconds that imports take.

A server process imports torch and what comes with it once, none of ours, and forks for
each script: a script starts with nothing of the test's state, imports geobiomass or
pasture itself, and may be killed.
"""

from __future__ import annotations

import atexit
import importlib
import json
import math
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATHS = (str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults"))
IMPORTED = (
    "dask.array",
    "lightning.pytorch",
    "rioxarray",
    "segmentation_models_pytorch",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "typer",
    "xarray",
    "zarr",
)


class NewProcesses:
    """Runs scripts; used as a context.

    `imported` names what the server imports instead, also of ours: scripts that are
    killed at many points then start in a tenth of a second.
    """

    def __init__(self, *imported: str) -> None:
        self.imported = imported
        self.asking = threading.Lock()

    def __enter__(self) -> NewProcesses:
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *self.imported],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        )
        assert self._answer() == "ready"
        return self

    def __exit__(self, *error: object) -> None:
        self.server.communicate()  # the end of its input ends it

    def __call__(
        self, script: str, *arguments: str, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as ``python -c`` does and return its code and what it printed.

        The environment is the server's: what a test has changed in it is not seen.
        """
        process = Started(self._ask("script", script, arguments, str(cwd)), self._ask)
        out, errors = process.communicate()
        assert process.returncode is not None
        return subprocess.CompletedProcess(script, process.returncode, out, errors)

    def start(
        self,
        *words: str,
        cwd: Path = ROOT,
        env: Mapping[str, str] = os.environ,
        devices: int = 1,
    ) -> Started:
        """Start what ``python *words`` does: ``-m``, ``-c`` or a file, and more words.

        It has a process group of its own. With several devices it is a training, for
        which Lightning starts the same program again, as a child of the first process;
        that child is forked as well, from a process in which nothing has run yet.
        """
        pid = self._ask("start", words, str(cwd), dict(env), devices)
        return Started(pid, self._ask)

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = os.environ,
        timeout: float = 600,
        **_: object,
    ) -> subprocess.CompletedProcess[str]:
        """Do what `subprocess.run` does with a command of Python, and its output."""
        process = self.start(*command[1:], env=env)
        out, errors = process.communicate(timeout)
        assert process.returncode is not None
        return subprocess.CompletedProcess(command, process.returncode, out, errors)

    def _ask(self, *request: Any) -> Any:
        assert self.server.stdin is not None
        with self.asking:  # several threads may run programs at the same time
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self.server.stdout is not None
        return json.loads(self.server.stdout.readline())


class Started:
    """A process that runs, with what tests use of `subprocess.Popen`."""

    stdin = stdout = stderr = None  # no pipes: what it prints is kept in files

    def __init__(self, pid: int, ask: Callable[..., Any]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ask = ask
        self._said = ("", "")

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        if self.returncode is None and (ended := self._ask("poll", self.pid)):
            self.returncode, *said = ended
            self._said = (said[0], said[1])
        return self.returncode

    def communicate(self, timeout: float = math.inf) -> tuple[str, str]:
        """Wait for the end; return what it printed, and its errors."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return self._said

    def wait(self, timeout: float = 60) -> int | None:
        """Wait for the end; return the exit code."""
        self.communicate(timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Served:
    """Processes that the server has forked, by their id, with files of their output."""

    def __init__(self) -> None:
        self.running: dict[int, list[Any]] = {}

    def fork(self, run: Callable[..., None], *arguments: Any) -> int:
        # They are closed when the process has ended.
        files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        pid = os.fork()
        if pid == 0:
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            for number, file in enumerate(files, 1):
                os.dup2(file.fileno(), number)
            run(*arguments)
        self.running[pid] = files
        return pid

    def end_of(self, pid: int) -> list[Any] | None:
        """Return code, output and errors; None if the process has not ended."""
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        said = []
        for file in self.running.pop(pid):
            file.seek(0)
            said.append(file.read().decode())
            file.close()
        return [os.waitstatus_to_exitcode(status), *said]


def serve() -> None:
    wanted = sys.argv[1:]
    for name in wanted or IMPORTED:
        importlib.import_module(name)
    ours = {name for name in sys.modules if name.startswith(("geobiomass", "pasture"))}
    assert wanted or not ours, ours
    served = Served()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, *given = json.loads(line)
        answer: Any
        if what == "start":
            answer = served.fork(start_program, *given)
            # As the process itself does, whichever of the two is first. A question for
            # its group that comes early would be answered with the group of the tests.
            with suppress(PermissionError, ProcessLookupError):
                os.setpgid(answer, answer)
        elif what == "script":
            answer = served.fork(run_script, *given)
        else:
            answer = served.end_of(given[0])
        print(json.dumps(answer), flush=True)


def run_script(script: str, arguments: list[str], cwd: str) -> None:
    def body() -> None:
        os.chdir(cwd)
        sys.argv = ["-c", *arguments]
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})

    end_with(body)


def start_program(
    words: list[str], cwd: str, env: dict[str, str], devices: int
) -> None:
    os.setpgrp()
    if devices > 1:
        _let_lightning_fork(devices - 1)
    run_program(words, cwd, env)


def run_program(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Run a program in the process that was forked for it, and end that process."""

    def body() -> None:
        _warn_as_usual()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        paths = env.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [path for path in paths if path]
        first = str(Path(words[0]).parent) if words[0][0] != "-" else cwd
        sys.path.insert(0, first)
        if words[0] == "-m":
            sys.argv = list(words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<script>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = list(words)
            runpy.run_path(words[0], run_name="__main__")

    end_with(body, _end_threads)


def _end_threads() -> None:
    """Do what Python does before it ends: wait for threads, call what has to be."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _warn_as_usual() -> None:
    """Undo the option ``-W ignore`` of the server."""
    sys.warnoptions.clear()
    filters: Any = warnings.filters
    filters.remove(("ignore", None, Warning, None, 0))
    # One more at the end, which nothing reaches: warnings notices that they changed.
    warnings.simplefilter("ignore", DeprecationWarning, append=True)


def _let_lightning_fork(count: int) -> None:
    """Let Lightning's launcher use processes that wait for it, in place of new ones."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    waiting = [_wait_in_a_fork() for _ in range(count)]

    class Popen(subprocess.Popen[bytes]):
        def _execute_child(self, args: Any, *others: Any) -> None:
            env, cwd = others[5], others[4]
            self.pid, pipe = waiting.pop(0)
            self._child_created = True
            with open(pipe, "w") as order:
                json.dump([args[1:], cwd or os.getcwd(), env], order)

    launcher: Any = subprocess_script
    launcher.subprocess = type("subprocess", (), {"Popen": Popen})


def _wait_in_a_fork() -> tuple[int, int]:
    """Fork a process that waits for its order; return its id and where orders go."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        with open(read) as pipe:
            text = pipe.read()
        if not text:  # the first process has ended and had no need of it
            os._exit(0)
        run_program(*json.loads(text))
    os.close(read)
    return pid, write


def end_with(
    body: Callable[[], None], at_exit: Callable[[], None] | None = None
) -> None:
    """Call a function, then end this process with the code that Python ends with."""
    code: object = 1
    try:
        body()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    if at_exit is not None:
        at_exit()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
    os._exit(0)  # taking torch apart costs more than a second
