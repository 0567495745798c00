"""The keepq command: `python -m keepq` and the console script."""

import signal
import sys

from ._keepq import cli_main


def main() -> int:
    """Runs the command line and returns its exit code."""
    if sys.argv[1:2] == ["worker"]:
        # It calls Python functions, so that it is not among the commands of the program.
        from ._worker_main import main as worker

        return worker(sys.argv[2:])
    # The program handles Ctrl-C itself; Python's handler would only run after it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return cli_main(["keepq", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
