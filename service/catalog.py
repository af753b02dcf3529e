"""The models that are served, found by name: it is looked up here, and never becomes a path."""

from collections.abc import Iterable, Iterator

from service.errors import Problem
from service.hosted import HostedModel


class Catalog:
    """The models by name, the first is the default; empty until they are loaded."""

    def __init__(self, models: Iterable[HostedModel] = ()) -> None:
        self._models = {model.info.name: model for model in models}

    def __iter__(self) -> Iterator[HostedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str | None) -> HostedModel:
        """The model of that name, the first one for None. Raises Problem 404 that lists the names."""
        if name is None:
            return next(iter(self))
        model = self._models.get(name)
        if model is None:
            detail = f"No model is called {name!r}: there is {', '.join(self._models)}."
            raise Problem(404, "unknown_model", detail, title="Unknown model")
        return model
