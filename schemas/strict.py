"""What every model of the contract has in common: nothing is coerced, nothing is ignored."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a request: strict types, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A part of an answer: fields may be absent where the request did not include them."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
