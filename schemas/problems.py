"""One shape for every error (RFC 9457)."""

from pydantic import Field

from schemas.strict import Answer


class FieldError(Answer):
    """Where in the request, and what is wrong there."""

    pointer: str = Field(description="JSON pointer (RFC 6901).")
    detail: str


class Problem(Answer):
    """application/problem+json."""

    type: str = Field(examples=["/problems/shape-mismatch"])
    title: str
    status: int
    detail: str = Field(description="What was expected, found and allowed.")
    instance: str
    request_id: str
    errors: list[FieldError] = Field(default=[], description="At most 20.")
    error: str = Field(description="Equal to detail, for Open Inference clients.")
    limit: str | None = Field(None, description="The setting that can be raised.")
    allowed: int | None = None
    needed: int | None = None


class ProblemType(Answer):
    """What a problem type means."""

    type: str
    status: int
    title: str
    meaning: str
