"""What the service offers, allows and runs on: all from the code's own tables."""

from dataclasses import asdict

import torch
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from schemas.problems import ProblemType
from schemas.server import Catalogue, Device, Devices, Entry, Limit, Limits
from service.api.documentation import problems
from service.api.problems import known_problems
from service.api.state import state_of
from service.diagnostics import DIAGNOSTICS, Diagnostic
from service.diagnostics.included import INCLUDED, IncludedFigure
from service.diagnostics.verdict import HEAD_RULES, REGIMES, RULES_VERSION
from service.encodings import ENCODINGS
from service.engine.devices import available, resolve
from service.includes import INCLUDES
from service.laboratory.figures import SWEPT, SweepFigure
from service.limits import UNITS
from service.masks import MASKS
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS, Normalizer
from service.settings import Settings

router = APIRouter(tags=["about"])


def _entries(members: dict[str, str], formula: str = "") -> list[Entry]:
    return [Entry(name=n, meaning=m, formula=formula) for n, m in members.items()]


def _normalizer(member: Normalizer) -> Entry:
    d = member.description
    return Entry(
        name=d.name, meaning=d.meaning, formula=d.formula, source=d.source, memory=d.memory
    )


def _figure(figure: Diagnostic | IncludedFigure | SweepFigure) -> Entry:
    return Entry(
        name=figure.name,
        meaning=figure.meaning,
        formula=figure.formula,
        unit=figure.unit,
        range=figure.range,
        source=figure.source,
        domain=None if isinstance(figure, SweepFigure) else figure.domain,
    )


def _verdict() -> list[Entry]:
    source = f"convention of this service, rules version {RULES_VERSION}"
    rows = [
        Entry(name=name, meaning="regime of a row", formula=rule, source=source)
        for name, rule in REGIMES.items()
    ]
    whole = Entry(name="head", meaning="level of a head", formula=HEAD_RULES, source=source)
    return [*rows, whole]


@router.get("/v1/catalogue", summary="Everything on offer", responses=problems(500))
async def get_catalogue() -> Catalogue:
    """Mechanisms, masks, normalisers, diagnostics and encodings: meaning, formula, unit, range and
    source of each.
    """  # noqa: D205 - shown on the docs page
    return Catalogue(
        mechanisms=[
            Entry(**{**asdict(m.description), "parameters": list(m.description.parameters)})
            for m in MECHANISMS.values()
        ],
        masks=[Entry(**asdict(m.description)) for m in MASKS],
        normalizers=[_normalizer(n) for n in NORMALIZERS.values()],
        diagnostics=[*map(_figure, DIAGNOSTICS.values()), *map(_figure, INCLUDED.values())],
        includes=_entries(INCLUDES),
        sweeps=[*map(_figure, SWEPT.values())],
        encodings=_entries(ENCODINGS),
        verdict=_verdict(),
    )


@router.get(
    "/v1/limits", summary="Every bound, and the setting that moves it", responses=problems(500)
)
async def get_limits(request: Request) -> Limits:
    """A request above a bound is refused with 413 before anything is allocated."""
    settings = state_of(request).settings
    return Limits(
        limits={
            field: Limit(
                value=getattr(settings, field),
                unit=unit,
                setting=settings.name_of(field),
                meaning=Settings.model_fields[field].description or "",
            )
            for field, unit in UNITS.items()
        }
    )


@router.get("/v1/devices", summary="What computes here", responses=problems(500))
async def get_devices(request: Request) -> Devices:
    """Devices, dtypes, torch's version, threads, and which implementation of the pass runs."""
    return Devices(
        devices=[Device(**{**asdict(d), "dtypes": list(d.dtypes)}) for d in available()],
        default=str(resolve("auto")),
        torch=torch.__version__.partition("+")[0],
        threads=state_of(request).engine.threads,
        **{"pass": state_of(request).engine.pass_name},
    )


@router.get(
    "/problems/{slug}", summary="What a problem type means", responses=problems(404, 422, 500)
)
async def get_problem(slug: str) -> ProblemType:
    """The `type` of every error answer is a path that can be asked."""
    found = known_problems().get(slug)
    if found is None:
        raise HTTPException(404)
    status, title, meaning = found
    return ProblemType(type=f"/problems/{slug}", status=status, title=title, meaning=meaning)
