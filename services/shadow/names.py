"""The names of evaluations."""

from modelyard.errors import InvalidArgument
from modelyard.names import check_model


def evaluation_name(model: str, id: str) -> str:
    """`models/{model}/evaluations/{id}`."""
    return f"models/{model}/evaluations/{id}"


def model_of(name: str) -> str:
    """The model of an evaluation's name; raises InvalidArgument."""
    match name.split("/"):
        case ["models", model, "evaluations", id] if id:
            return check_model(model)
    raise InvalidArgument(f"{name!r} is not of the form models/MODEL/evaluations/ID", field="name")
