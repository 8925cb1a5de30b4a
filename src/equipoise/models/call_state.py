"""State that a network shares with its layers during one call."""

import threading
from typing import Any


class CallState(threading.local):
    """Base class of what a network tells its layers during a call, such as the branch.

    Each thread has its own state, so data-parallel calls do not disturb each other. A copied or
    unpickled state is empty.
    """

    def __deepcopy__(self, memo: Any) -> Any:
        kind, arguments = self.__reduce__()
        return kind(*arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (type(self), ())
