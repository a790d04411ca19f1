"""The last line of stdout is the result of a job, whatever a library prints."""

import os
import subprocess
import sys
import threading

TRAINER_THREAD = "trainer"
"""The thread that a training waits in; see `end_stopped`."""

# Ends the processes that it is given, in a process of its own: first asks the one half, then kills both.
REAPER = """
import contextlib, os, signal, sys, time

def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

workers, servers = ([int(pid) for pid in part.split(",") if pid] for part in sys.argv[1:])
send(workers, signal.SIGTERM)
time.sleep(1)
send(workers + servers, signal.SIGKILL)
"""


def keep_stdout_for_results() -> None:
    """What libraries and their child processes write to file descriptor 1 goes to stderr; our own prints stay."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def end_ray() -> None:
    """Ray's last words come before the result, which is the last line."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def end_stopped(exit_code: int) -> int:
    """End a run that a signal stopped: returns its exit code, or, where a training still waits in Ray, exits with it.

    The training's thread cannot be called back, and Ray ends the whole process with a code of its own when that thread
    asks for something and Ray's server is gone. So the process leaves before the server does, and another one sees to
    it that nothing of Ray outlives us on this machine.
    """
    if any(thread.name == TRAINER_THREAD for thread in threading.enumerate()):
        import psutil

        servers = {process.pid for process in psutil.Process().children()}
        workers = {process.pid for process in psutil.Process().children(recursive=True)} - servers
        pids = [",".join(map(str, part)) for part in (workers, servers)]
        quiet = subprocess.DEVNULL
        subprocess.Popen(
            [sys.executable, "-c", REAPER, *pids], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code
