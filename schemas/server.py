"""What the service says of itself."""

from pydantic import Field

from schemas.strict import Answer


class Health(Answer):
    """Alive, or ready."""

    status: str = Field(examples=["ok"])


class Device(Answer):
    """One device that computes."""

    name: str
    description: str
    dtypes: list[str]
    memory_bytes: int | None


class Devices(Answer):
    """What computes here, and how."""

    devices: list[Device]
    default: str
    torch: str
    threads: int
    pass_: str = Field(alias="pass", description="Which implementation of the pass runs.")


class Limit(Answer):
    """One bound, and the setting that moves it."""

    value: int | float
    unit: str
    setting: str
    meaning: str


class Limits(Answer):
    """Every bound in force."""

    limits: dict[str, Limit]


class Entry(Answer):
    """One member of the catalogue."""

    name: str
    meaning: str
    formula: str
    unit: str | None = None
    range: str | None = None
    source: str | None = None
    domain: str | None = Field(None, description="Where it is defined.")
    shapes: str | None = Field(None, description="Of a mechanism's inputs.")
    parameters: list[str] | None = Field(None, description="A mechanism's learned weights.")
    memory: str | None = Field(None, description="What of a row a normaliser must hold.")


class Catalogue(Answer):
    """Everything on offer, from the code's own tables."""

    mechanisms: list[Entry]
    masks: list[Entry]
    normalizers: list[Entry]
    diagnostics: list[Entry]
    includes: list[Entry]
    sweeps: list[Entry] = Field(description="Figures that only sweeps have.")
    encodings: list[Entry]
    verdict: list[Entry]
