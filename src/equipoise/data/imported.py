"""Your own data, read by an importable function, so that a recipe can name it."""

from dataclasses import dataclass, field
from pathlib import Path

from equipoise.data.dataset import DataError, DataSet
from equipoise.runtime.json_argument import JsonObject
from equipoise.runtime.trust import call_trusted_function, names_function


@dataclass(frozen=True, kw_only=True)
class ImportedData:
    """Data that a function of another package reads.

    Args:
        function: ``module:function``; it returns a ``DataSet``.
        folder: Folder or file that it reads, if it has a parameter of that name.
        arguments: Its other arguments.

    Raises:
        DataError: If the function is not written ``module:function``; from ``load``, if it returns
            anything but a ``DataSet``.
        RunError: From ``load``, if the function cannot be imported or is not trusted.

    Example:
        >>> from equipoise.data.digits import Digits
        >>> from equipoise.runtime.trust import trusting
        >>> def reader(limit):
        ...     return Digits().load()
        >>> with trusting(reader):
        ...     ImportedData(function="my_package:reader", arguments={"limit": 9}).load().classes
        10
    """

    function: str
    folder: Path | None = None
    arguments: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not names_function(self.function):
            raise DataError(
                "data of your own are written module:function, a function that reads them, got "
                f"{self.function!r}."
            )

    def load(self) -> DataSet:
        """Read the images; the function must be trusted."""
        given = {} if self.folder is None else {"folder": self.folder}
        dataset = call_trusted_function(self.function, given | self.arguments)
        if not isinstance(dataset, DataSet):
            raise DataError(
                f"{self.function} must return an equipoise.data.DataSet, got "
                f"{type(dataset).__name__}; as_split makes each of its parts from arrays."
            )
        return dataset
