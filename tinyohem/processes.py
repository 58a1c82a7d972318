"""Worker processes that do not outlive the one that started them."""

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """End this worker when the process that started it is killed; it would wait for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
