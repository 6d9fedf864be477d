"""What should serve here, from the catalogue."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from modelyard.catalog import Catalog
from modelyard.catalog.hosts import CALLERS
from modelyard.names import VersionName
from services.inference.artifacts import Artifact


class Wants:
    """The versions that this supervisor should serve, and their artifacts.

    Args:
        catalog: Gives the catalogue as it is now; None while it is not known.
        models: Patterns of the names of models that are served here, such as `image-*`.
        pool: Whom the hosts answer: callers, or evaluations alone.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        models: Sequence[str] = ("*",),
        pool: str = CALLERS,
    ) -> None:
        self._catalog = catalog
        self._models = tuple(models)
        self._pool = pool
        self._seen: Catalog | None = None
        self._wanted: Mapping[VersionName, Artifact] | None = None

    def __call__(self) -> Mapping[VersionName, Artifact] | None:
        """What should serve; None while the catalogue is not known."""
        catalog = self._catalog()
        if catalog is not self._seen:
            self._seen = catalog
            self._wanted = None if catalog is None else self._from(catalog)
        return self._wanted

    def _from(self, catalog: Catalog) -> Mapping[VersionName, Artifact]:
        versions = (
            catalog.version(name)
            for name in catalog.wanted(self._pool)
            if any(fnmatchcase(name.model, pattern) for pattern in self._models)
        )
        return {v.name: Artifact(v.digest, v.files, v.golden) for v in versions}
