"""The last line of stdout is the result of a job, whatever a library prints."""

import contextlib
import os
import sys


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
    """End a run that a signal stopped; returns only where there is no Ray to end.

    At once, without Ray's own goodbye: a thread of Ray's (a trainer's, a search's) still asks for things, and ends the
    process with a code of its own as soon as they are gone. What Ray started on this machine is killed first, leaves
    before roots, so that nothing outlives us.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        import psutil

        sys.stdout.flush()
        sys.stderr.flush()
        for process in reversed(psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(exit_code)
    return exit_code
