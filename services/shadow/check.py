"""Whether what is asked of an evaluation fits the versions that there are. Pure."""

from collections.abc import Sequence

from modelyard.catalog import Catalog
from modelyard.errors import InvalidArgument
from modelyard.names import VersionName
from services.shadow.plan import MOST_CANDIDATES, Plan


def check_versions(numbers: Sequence[int], baseline: int) -> None:
    """Raises InvalidArgument unless these candidates can be compared with this baseline."""
    if not 0 < len(numbers) <= MOST_CANDIDATES:
        raise InvalidArgument(
            f"candidates: {len(numbers)}, from 1 to {MOST_CANDIDATES}", field="candidates"
        )
    for index, number in enumerate(numbers):
        if number == baseline:
            raise InvalidArgument(
                f"candidates[{index}]: version {number} is the baseline", field="candidates"
            )
        if number in numbers[:index]:
            raise InvalidArgument(
                f"candidates[{index}]: version {number} is there already", field="candidates"
            )


def check_outputs(plan: Plan, catalog: Catalog, baseline: VersionName) -> None:
    """Raises InvalidArgument unless every output that the plan names is one of the baseline's."""
    outputs = [tensor.name for tensor in catalog.version(baseline).signature.outputs]
    named = [
        *((f"gates[{i}].output", g.output) for i, g in enumerate(plan.gates) if g.output),
        *((f"comparators.{name}", name) for name in plan.comparators),
        *((f"losses.{name}", name) for name in plan.losses),
    ]
    for field, name in named:
        if name not in outputs:
            raise InvalidArgument(
                f"plan.{field}: {baseline} has no output {name!r}; it has {', '.join(outputs)}",
                field=f"plan.{field}",
            )
