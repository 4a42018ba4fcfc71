"""The README's recipe for a new mechanism works as it stands, and touches three files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE = README.split("## How to add a mechanism")[1].split("\n## ")[0]
PROGRAM = """
import asyncio, json, httpx
from service.app import create_app

REQUEST = {
    "mechanism": {"kind": "distance"},
    "inputs": {"kind": "tensors", "query": [[1.0, 2.0], [0.0, -1.0]],
               "key": [[0.5, 2.0], [0.0, 0.0], [3.0, 1.0]]},
    "mask": {"causal": "lower_right"},
    "include": ["weights", "diagnostics", "gradients", "perturbation"],
}

async def main():
    app = create_app()
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/attention", json=REQUEST)
            wrong = {"mechanism": {"kind": "distance", "metric": 1}}
            refused = await client.post("/v1/attention", json=wrong)
            listed = (await client.get("/v1/catalogue")).json()["mechanisms"]
            page = (await client.get("/openapi.json")).json()
            model = (await client.get("/v2/models/distance")).json()
            seeded = {"parameters": {"seed": 1}, "outputs": [{"name": "entropy"}]}
            inferred = await client.post("/v2/models/distance/infer", json=seeded)
    print(json.dumps({
        "status": answer.status_code, "answer": answer.json(), "refused": refused.json(),
        "listed": [entry["name"] for entry in listed],
        "described": page["paths"]["/v1/attention"]["post"]["description"],
        "schema": "Distance" in page["components"]["schemas"],
        "inputs": [tensor["name"] for tensor in model["inputs"]],
        "inferred": inferred.json(),
    }))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the service in which somebody has followed the recipe."""
    copy = tmp_path_factory.mktemp("recipe")
    for room in ("service", "schemas"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    own, schema, line = re.findall(r"```python\n(.*?)```", RECIPE, flags=re.DOTALL)
    (copy / "service/mechanisms/distance.py").write_text(own, encoding="utf-8")
    models = copy / "schemas/mechanisms.py"
    text = models.read_text(encoding="utf-8")
    last = '    | Annotated[MultiHead, Tag("multi_head")],\n'
    before = "\n\nMechanism = Annotated["
    assert text.count(last) == 1
    assert text.count(before) == 1
    text = text.replace(last, last.replace(",\n", "\n").replace("],", "]") + line.rstrip() + ",\n")
    models.write_text(text.replace(before, f"\n\n{schema.rstrip()}\n{before}"), encoding="utf-8")
    table = copy / "service/mechanisms/__init__.py"
    text = table.read_text(encoding="utf-8").replace("MultiHead())", "MultiHead(), Distance())")
    imported = "from service.mechanisms.base import Mechanism\n"
    assert imported in text
    text = text.replace(imported, imported + "from service.mechanisms.distance import Distance\n")
    table.write_text(text, encoding="utf-8")
    return copy


def changed(copy: Path) -> set[str]:
    """The files that differ from the project's."""
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*.py")}
    return {
        name
        for name in found
        if not (ROOT / name).exists() or (ROOT / name).read_bytes() != (copy / name).read_bytes()
    }


def test_a_mechanism_takes_three_files(followed: Path) -> None:
    """Its own, its schema and its line in the table: nothing else changes."""
    assert changed(followed) == {
        "service/mechanisms/distance.py",
        "schemas/mechanisms.py",
        "service/mechanisms/__init__.py",
    }


def test_the_added_mechanism_works_with_everything(followed: Path) -> None:
    """It answers with masks, diagnostics, gradients and perturbation, and is documented."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=followed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == 200, found["answer"]
    # By hand: squared distances 0.25 and 5 for the first query, 9.25, 1 and 13 for the second.
    first, second = found["answer"]["weights"]
    assert first == pytest.approx([0.9149009, 0.0850991, 0.0], abs=1e-6)
    assert second == pytest.approx([0.0158677, 0.9816989, 0.0024334], abs=1e-6)
    assert found["answer"]["gradients"]["query"][0][0] > 0
    assert found["answer"]["verdict"]["level"] is not None
    assert "known are scale, softcap" in found["refused"]["detail"]
    assert found["listed"] == [*MECHANISMS, "distance"]
    assert "### distance" in found["described"]
    assert found["schema"]
    assert found["inputs"][:3] == ["query", "key", "value"]
    assert len(found["inferred"]["outputs"][0]["data"]) == 16


@pytest.mark.parametrize("member", [*MECHANISMS.values(), *NORMALIZERS.values()])
def test_the_tables_of_the_readme_are_those_of_the_code(member: object) -> None:
    """Each mechanism and normaliser stands in the README with its own formula."""
    description = member.description  # type: ignore[attr-defined]
    assert f"| `{description.name}` | `{description.formula}` |" in README
