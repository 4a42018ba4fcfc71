import re
from itertools import product

import pytest
import torch
from pydantic import TypeAdapter

from schemas.attention import AttentionRequest, IncludeOptions
from schemas.mechanisms import Mechanism
from service.api.problems import STATUS, known_problems
from service.diagnostics import DIAGNOSTICS
from service.diagnostics.included import INCLUDED
from service.diagnostics.verdict import HEAD_RULES, REGIMES, RULES_VERSION
from service.encodings import ENCODINGS
from service.includes import INCLUDES
from service.limits import UNITS
from service.masks import MASKS
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def catalogue(client):
    return (await client.get("/v1/catalogue")).json()


def names(entries):
    found = [entry["name"] for entry in entries]
    assert len(set(found)) == len(found)
    return set(found)


async def test_the_catalogue_lists_every_member_of_every_table(catalogue):
    """What the code's tables hold is in the catalogue, and nothing else."""
    assert names(catalogue["mechanisms"]) == set(MECHANISMS)
    assert names(catalogue["masks"]) == {mask.description.name for mask in MASKS}
    assert names(catalogue["normalizers"]) == set(NORMALIZERS)
    assert names(catalogue["diagnostics"]) == {*DIAGNOSTICS, *INCLUDED}
    assert names(catalogue["includes"]) == set(INCLUDES)
    assert names(catalogue["encodings"]) == set(ENCODINGS)
    assert names(catalogue["verdict"]) == {*REGIMES, "head"}


async def test_every_entry_says_what_it_means(catalogue):
    """Each entry has a meaning; figures have a formula, unit, range, source and domain too."""
    for entry in (entry for entries in catalogue.values() for entry in entries):
        assert len(entry["meaning"]) > 10 or entry["meaning"].startswith("regime"), entry["name"]
    for entry in catalogue["diagnostics"]:
        for field in ("formula", "unit", "range", "source", "domain"):
            assert entry[field], (entry["name"], field)
    for room in ("mechanisms", "masks", "normalizers"):
        for entry in catalogue[room]:
            assert entry["formula"], entry["name"]
    for room in ("mechanisms", "masks"):
        assert all(entry["source"] for entry in catalogue[room])
    for entry in catalogue["verdict"]:
        assert RULES_VERSION in entry["source"]
        assert "convention of this service" in entry["source"]
    assert HEAD_RULES in {entry["formula"] for entry in catalogue["verdict"]}


async def test_the_figures_of_all_answers_are_those_of_the_catalogue(client, catalogue):
    """Answers with everything have the catalogue's figures, with their units, and no others."""
    listed = {entry["name"]: entry for entry in catalogue["diagnostics"]}
    assert names(catalogue["includes"]) >= {figure.include for figure in INCLUDED.values()}
    seen = set()
    for kind, normalizer in product(MECHANISMS, NORMALIZERS):
        request = {
            "mechanism": {"kind": kind, "normalizer": normalizer},
            "include": list(INCLUDES),
        }
        answer = (await client.post("/v1/attention", json=request)).json()
        for name, figures in answer["diagnostics"].items():
            assert figures["unit"] == listed[name]["unit"]
            assert (name in answer["row_diagnostics"]) is ("reason" not in figures), name
        assert set(answer["diagnostics"]) | {"argmax"} >= set(answer["row_diagnostics"])
        seen |= set(answer["row_diagnostics"])
    assert seen == set(listed)
    assert set(answer["verdict"]["shares"]) | {"head"} == names(catalogue["verdict"])
    assert answer["verdict"]["rules"] == RULES_VERSION


async def test_figures_lie_in_the_range_they_claim(client, catalogue):
    """Where a range is a pair of numbers or of n, every row of a varied request lies within."""
    request = {
        "mechanism": {"kind": "scaled_dot_product", "scale": 0.5},
        "inputs": {"kind": "seeded", "heads": 3, "query_length": 17, "d_k": 16},
        "mask": {"causal": "upper_left"},
        "include": ["row_diagnostics"],
    }
    rows = (await client.post("/v1/attention", json=request)).json()["row_diagnostics"]
    checked = 0
    for entry in catalogue["diagnostics"]:
        match = re.match(r"\[(0|1), (?:(1|1/2|ln n|n|inf)[\])])", entry["range"])
        if match is None:
            continue
        low = float(match[1])
        for head in rows.get(entry["name"], [[]])[0]:
            for n, figure in enumerate(head, start=1):
                high = {"1": 1, "1/2": 0.5, "ln n": torch.tensor(n).log().item(), "n": n,
                        "inf": float("inf")}[match[2]]  # fmt: skip
                assert figure is None or low - 1e-6 <= figure <= high + 1e-4, entry["name"]
                checked += figure is not None
    assert checked > 300


def literals(model, field):
    """The names that a field of a request accepts, over all members of a union."""
    schema = TypeAdapter(model).json_schema()
    members = [schema] if "properties" in schema else schema["$defs"].values()
    fields = [m["properties"][field] for m in members if field in m.get("properties", {})]
    return {name for f in fields for name in f.get("enum", [f.get("const")])}


async def test_what_is_listed_can_be_asked_for(catalogue):
    """The schema of the request accepts exactly the names of the catalogue."""
    assert literals(Mechanism, "normalizer") == names(catalogue["normalizers"])
    forms = {"seeded", "given", "log_length"}
    assert literals(Mechanism, "kind") - forms == names(catalogue["mechanisms"])
    assert literals(IncludeOptions, "name") == names(catalogue["includes"])
    by_name = AttentionRequest.model_json_schema()["properties"]["include"]["anyOf"][0]["items"]
    assert set(by_name["oneOf" if "oneOf" in by_name else "anyOf"][0]["enum"]) == names(
        catalogue["includes"]
    )


@pytest.mark.parametrize("settings", [Settings(), Settings(max_groups=7, deadline_s=1.5)])
async def test_limits_are_the_settings(client, settings):
    """Every bound is told with its value, its unit, its meaning and the setting that moves it."""
    limits = (await client.get("/v1/limits")).json()["limits"]
    assert limits.keys() == UNITS.keys()
    for field, limit in limits.items():
        assert limit["value"] == getattr(settings, field)
        assert limit["unit"] == UNITS[field]
        assert limit["setting"] == f"ATTENTION_{field.upper()}"
        assert limit["meaning"]


def test_every_bound_of_the_settings_is_a_limit():
    """A setting that bounds something is listed among the limits."""
    bounds = {
        field
        for field in Settings.model_fields
        if field.startswith("max_") or field.endswith(("_s", "_bytes"))
    }
    assert bounds == set(UNITS)
    edge = {"api_key", "metrics_open", "docs_open", "cors_origins", "trusted_proxies"}
    told = {"log_level", "log_format", "telemetry"}
    other = {"host", "port", "pass_", "threads", "largest_batch"} | edge | told
    assert set(Settings.model_fields) == bounds | other


@pytest.mark.parametrize("field", UNITS)
def test_every_limit_is_set_from_the_environment(monkeypatch, field):
    """The name that errors and limits tell is the variable that moves the bound."""
    name = Settings().name_of(field)
    monkeypatch.setenv(name, "12345")
    assert getattr(Settings(), field) == 12345
    nothing = [] if field == "drain_delay_s" else ["0"]
    for wrong in (*nothing, "-1", "many", "inf", "nan"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(ValueError, match=field):
            Settings()


async def test_devices_are_told(client):
    """The CPU is always there, with its dtypes; the default is one of the devices."""
    found = (await client.get("/v1/devices")).json()
    by_name = {device["name"]: device for device in found["devices"]}
    assert by_name["cpu"]["dtypes"] == ["float16", "bfloat16", "float32", "float64"]
    assert found["default"] in by_name
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["threads"] >= 1
    answer = (await client.post("/v1/attention", json={})).json()
    assert answer["numerics"]["pass"] == found["pass"]
    assert answer["device"] == found["default"]


@pytest.mark.parametrize("settings", [Settings(threads=3)])
async def test_threads_are_those_of_the_setting(client):
    """ATTENTION_THREADS decides how many threads compute."""
    assert (await client.get("/v1/devices")).json()["threads"] == 3


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_is_ok(client, path):
    """A running service is alive and ready."""
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("slug", known_problems())
async def test_every_problem_type_can_be_asked(client, slug):
    """The path in `type` answers with the status, title and meaning of that error."""
    answer = await client.get(f"/problems/{slug}")
    status, title, meaning = known_problems()[slug]
    assert answer.status_code == 200
    assert answer.json() == {
        "type": f"/problems/{slug}",
        "status": status,
        "title": title,
        "meaning": meaning,
    }


def test_every_error_class_is_a_problem_type():
    """No class of error lacks its page."""
    assert {kind.slug for kind in STATUS} < set(known_problems())


async def test_the_front_page_leads_to_the_docs(client):
    """Whoever opens the service in a browser lands on the documentation."""
    answer = await client.get("/", follow_redirects=True)
    assert answer.status_code == 200
    assert answer.url.path == "/docs"
