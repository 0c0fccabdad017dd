"""
Processes that start at once: forks of one that has already imported what takes seconds.

    preloaded.py MODULE ...

This process imports the modules and reads requests from its input, each a JSON object on a line. It runs each in a fork
of itself, and writes the exit code of the fork to its output. It ends with its input.
"""

import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path


class Preloaded:
    """Runs scripts and code as `subprocess.run` does, in forks of a process that has imported some modules."""

    def __init__(self, *modules, **environment):
        command = [sys.executable, __file__, *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen(command, env=os.environ | environment, **pipes)
        self._environment = environment

    def close(self):
        """End the process."""
        self._server.communicate()

    def run(self, command, cwd=None, **environment):
        """`command` is a script and its arguments, or "-c", the code, and its arguments."""
        command = [str(part) for part in command]
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder) / part for part in ("out", "err"))
            request = {
                "command": command,
                "cwd": str(cwd or os.getcwd()),
                "environment": os.environ | self._environment | environment,
                "files": [str(out), str(err)],
            }
            print(json.dumps(request), file=self._server.stdin, flush=True)
            code = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(command, code, out.read_text("utf-8"), err.read_text("utf-8"))


def next_request():
    """Wait for requests, and return each in a fork. The process itself never returns."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def prepare(command, cwd, environment, files):
    """Make this process what `subprocess.run` would have started."""
    for file, number in (("/dev/null", 0), (files[0], 1), (files[1], 2)):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command if command[0] != "-c" else ["-c", *command[2:]]
    sys.path[0] = str(Path(command[0]).parent) if command[0] != "-c" else ""


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    gc.freeze()
    request = next_request()
    prepare(**request)
    if request["command"][0] == "-c":
        exec(compile(request["command"][1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(request["command"][0], run_name="__main__")
