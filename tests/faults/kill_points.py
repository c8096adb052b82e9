"""Scripts that are killed, or whose disk is full, at a place that can be repeated.

Python announces each change to a file before it is made (an audit event), so a script
is ended before its n-th change, always the same one. Libraries in C, C++ and Rust
(GDAL, safetensors, zarrs) announce nothing. For these there is the largest size that a
file may have: the system ends the process in the write that would go beyond it.

Scripts have no state of the test's; they import what they need.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

Runner = Callable[[str], "subprocess.CompletedProcess[str]"]
"""Runs a script as ``python -c`` does; the fixture `new_process` is one."""

_WATCH = """
def _watch(folder, act):
    import os, sys
    ours = (folder, folder + os.sep)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    directories = {{"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2,
                   "os.link": 2, "os.symlink": 2, "os.truncate": None, "open": None}}
    def place(path, directory):
        path = os.fsdecode(path)
        if directory not in (None, -1):
            # shutil.rmtree names files relative to a descriptor of their folder.
            path = os.path.join(os.readlink(f"/proc/self/fd/{{directory}}"), path)
        return os.path.abspath(path)
    def hook(event, arguments):
        if event not in directories or isinstance(arguments[0], int):
            return
        if event == "open" and not (arguments[2] or 0) & writing:
            return
        at = directories[event]
        where = place(arguments[0], None if at is None else arguments[at])
        if where == ours[0] or where.startswith(ours[1]):
            act(event, where)
    sys.addaudithook(hook)
"""

_KILL = """
def _kill(left):
    import os, signal
    def act(event, where):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return act
_watch({folder!r}, _kill([{operation}]))
"""

_FAIL = """
def _fail(left):
    import os
    def act(event, where):
        left[0] -= 1
        # What frees space works on a full disk.
        if left[0] <= 0 and event in ("open", "os.mkdir", "os.link", "os.symlink"):
            raise OSError({code}, os.strerror({code}), where)
    return act
_watch({folder!r}, _fail([{operation}]))
"""

_LIST = """
def _list(log):
    import os
    def act(event, where):
        os.write(log, f"{{event}} {{where}}\\n".encode())
    return act
import os as _os
_watch({folder!r}, _list(_os.open({log!r}, _os.O_WRONLY | _os.O_APPEND)))
"""

_PAUSE = """
def _pause(told, waits):
    import os, threading
    alone = threading.Lock()
    def act(event, where):
        with alone:
            os.write(told, f"{{event}} {{where}}\\n".encode())
            os.read(waits, 1)
    return act
_watch({folder!r}, _pause({told}, {waits}))
"""

_LIMIT = """
import resource as _resource, signal as _signal
_signal.signal(_signal.SIGXFSZ, _signal.{handler})
_resource.setrlimit(_resource.RLIMIT_CORE, (0, 0))
_resource.setrlimit(_resource.RLIMIT_FSIZE, ({size}, _resource.RLIM_INFINITY))
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new interpreter, from the root of the repository."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )


def kill_at(
    script: str, operation: int, folder: Path, run: Runner = run_script
) -> bool:
    """Run a script, and kill it (SIGKILL) before its n-th change to a file.

    Parameters
    ----------
    script : str
        Python.
    operation : int
        Number of the change, from 1: a file opened to write, made, renamed, removed.
    folder : Path
        Only changes in this folder and below it count.
    run : callable
        What runs it.

    Returns
    -------
    bool
        Whether it was killed; False where it ended before, without an error.
    """
    prelude = _KILL.format(folder=str(folder.absolute()), operation=operation)
    return _was_killed(run(_with(prelude, script)), signal.SIGKILL)


def kill_at_size(script: str, size: int, run: Runner = run_script) -> bool:
    """Run a script, and kill it in the write that makes any file larger than `size`.

    For libraries that write without Python. The file then has `size` bytes.

    Parameters
    ----------
    script : str
        Python.
    size : int
        Bytes.
    run : callable
        What runs it.

    Returns
    -------
    bool
        Whether it was killed.
    """
    prelude = _LIMIT.format(handler="SIG_DFL", size=size)
    return _was_killed(run(_with(prelude, script)), signal.SIGXFSZ)


def fail_at(
    script: str,
    operation: int,
    folder: Path,
    code: int = errno.ENOSPC,
    run: Runner = run_script,
) -> subprocess.CompletedProcess[str]:
    """Run a script on a disk that is full from its n-th change to a file on.

    Python's own operations that need space fail; what removes and renames works.

    Parameters
    ----------
    script, operation, folder, run
        As in :func:`kill_at`.
    code : int
        The error: ENOSPC, EACCES, EROFS, ...

    Returns
    -------
    subprocess.CompletedProcess
        Its code and what it printed.
    """
    prelude = _FAIL.format(
        folder=str(folder.absolute()), operation=operation, code=code
    )
    return run(_with(prelude, script))


def fail_at_size(
    script: str, size: int, run: Runner = run_script
) -> subprocess.CompletedProcess[str]:
    """Run a script for which no file may be larger than `size` (EFBIG)."""
    return run(_with(_LIMIT.format(handler="SIG_IGN", size=size), script))


def operations_of(
    script: str, folder: Path, run: Runner = run_script
) -> list[tuple[str, Path]]:
    """Run a script to its end, and return its changes to files in their order.

    Returns
    -------
    list of (str, Path)
        The kind ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", ...) and
        the place. The n-th one, from 1, is before what ``kill_at(script, n, folder)``
        kills.
    """
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        prelude = _LIST.format(folder=str(folder.absolute()), log=log.name)
        done = run(_with(prelude, script))
        assert done.returncode == 0, done.stderr[-4000:]
        lines = Path(log.name).read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return [(kind, Path(place)) for kind, place in pairs]


def steps_of(script: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a script, which waits before each change to a file while the caller looks.

    Yields
    ------
    str, Path
        As :func:`operations_of` has them. The script goes on when the next one is
        asked for, and has ended, with code 0, when there is none.
    """
    asked, told = os.pipe()
    waits, go = os.pipe()
    prelude = _PAUSE.format(folder=str(folder.absolute()), told=told, waits=waits)
    paths = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _with(prelude, script)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        pass_fds=(told, waits),
    )
    os.close(told)
    os.close(waits)
    try:
        with os.fdopen(asked) as lines:
            for line in lines:
                kind, place = line.rstrip("\n").split(" ", 1)
                yield kind, Path(place)
                os.write(go, b".")
        assert process.wait() == 0
    finally:
        os.close(go)
        process.kill()
        process.wait()


def _with(prelude: str, script: str) -> str:
    return _WATCH.format() + prelude + textwrap.dedent(script)


def _was_killed(done: subprocess.CompletedProcess[str], by: signal.Signals) -> bool:
    assert done.returncode in (0, -by), f"{done.returncode}: {done.stderr[-4000:]}"
    return done.returncode == -by
