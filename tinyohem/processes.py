"""How many worker processes, and how they do not outlive the one that started them."""

import os
import threading
from multiprocessing import parent_process


def usable_cores() -> int:
    """Return the cores that this process may use, which taskset or a container can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker when the process that started it is killed; it would wait for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
