"""Refuses interpreters that keepq cannot work in, in words. Imported before the native module.

A free-threaded build never gets here: it looks for a native module of its own kind, which the wheel
does not have; pip says so when the wheel is to be installed.
"""

# As they are called from Python 3.13 on, and before.
_NAMES = ("_interpreters", "_xxsubinterpreters")


def check() -> None:
    """Raises ImportError in a subinterpreter: stores and their threads belong to the process."""
    for name in _NAMES:
        try:
            interpreters = __import__(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "keepq works in the main interpreter only, not in a subinterpreter; use threads or "
                "processes (several may have a store open at a time)"
            )
        return


check()
