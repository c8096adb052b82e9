"""New processes for scripts of tests, without the ten seconds that imports take.

A server process imports torch and what comes with it once, none of ours, and forks for
each script: a script starts with nothing of the test's state, imports geobiomass or
pasture itself, and may be killed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATHS = (str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults"))
IMPORTED = (
    "lightning.pytorch",
    "segmentation_models_pytorch",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "xarray",
)


class NewProcesses:
    """Runs scripts; used as a context.

    `imported` names what the server imports instead, also of ours: scripts that are
    killed at many points then start in a tenth of a second.
    """

    def __init__(self, *imported: str) -> None:
        self.imported = imported

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
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps([script, arguments, str(cwd)]) + "\n")
        self.server.stdin.flush()
        code, out, errors = self._answer()
        return subprocess.CompletedProcess(script, code, out, errors)

    def _answer(self):
        assert self.server.stdout is not None
        return json.loads(self.server.stdout.readline())


def serve() -> None:
    wanted = sys.argv[1:]
    for name in wanted or IMPORTED:
        importlib.import_module(name)
    ours = {name for name in sys.modules if name.startswith(("geobiomass", "pasture"))}
    assert wanted or not ours, ours
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        script, arguments, cwd = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                run(script, arguments, cwd)
            _, status = os.waitpid(pid, 0)
            out.seek(0)
            errors.seek(0)
            said = [file.read().decode() for file in (out, errors)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)


def run(script: str, arguments: list[str], cwd: str) -> None:
    """Run a script in the process that was forked for it, and end that process."""
    code: object = 1
    try:
        os.chdir(cwd)
        sys.argv = ["-c", *arguments]
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
    os._exit(0)  # taking torch apart costs more than a second
