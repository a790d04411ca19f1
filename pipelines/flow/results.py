"""The last line of stdout is the result of a job, whatever a library prints."""

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
