"""What a request would cost, without computing it."""

from pydantic import Field

from schemas.strict import Answer


class NeededLimit(Answer):
    """One limit, and what the request needs of it."""

    needed: int
    allowed: int
    setting: str
    what: str = Field(description="What needs it: of several tensors the largest.")


class EstimateAnswer(Answer):
    """Upper bounds, from the shapes alone."""

    flops: int = Field(description="Floating-point operations.")
    peak_bytes: int = Field(description="Memory while it is computed and written.")
    answer_bytes: int
    admitted: bool = Field(description="Whether every need is within its limit.")
    limits: dict[str, NeededLimit]
