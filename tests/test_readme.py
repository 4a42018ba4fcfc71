"""Every command and program in the README runs as it stands."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from docs import run as page
from docs.generate import FILE, reference
from examples import demo
from tests.printed import assert_same

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.sockets


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with demo.service() as address:
        yield address


def curl(command: str, address: str) -> dict[str, object]:
    here = command.replace("127.0.0.1:8000", address.removeprefix("http://"))
    done = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_unscaled_request_is_saturated_as_the_readme_says(address: str) -> None:
    """The first curl command gives the verdict that stands below it."""
    command = next(block for block in blocks("sh") if "512" in block)
    verdict = curl(command, address)["verdict"]
    shown = next(block for block in blocks("json") if "saturated" in block)
    assert f'"level": {json.dumps(verdict["level"])}' in shown
    assert f'"shares": {json.dumps(verdict["shares"])}' in shown
    assert json.dumps(verdict["advice"][0]) in shown


def test_the_model_file_posted_by_curl_ranks_its_saturated_head_first(address: str) -> None:
    """The second curl command posts the file as it lies."""
    command = next(block for block in blocks("sh") if "minilm" in block)
    answer = curl(command, address)
    worst = answer["ranking"][0]
    assert (worst["group"], worst["head"], worst["level"]) == ("layer0", 2, "saturated")
    assert "layer0.output" in answer["omitted"]


def test_the_table_of_the_real_model_is_what_the_demo_prints(address: str) -> None:
    """Layers by heads, and the worst heads, are those of the README."""
    answer = demo.analyse(address, demo.FILE)
    shown = next(block for block in blocks("text") if "SATURATED" in block)
    assert demo.table(answer) in shown
    assert demo.ranking(answer, most=3) in shown


def test_every_command_with_an_output_prints_it(address: str) -> None:
    """The tables of the laboratory are what the commands above them print."""
    printing = [(command, shown) for command, shown in page.steps(README) if shown is not None]
    assert len(printing) == 2
    for command, shown in printing:
        assert_same(page.run(command, address), shown)


def test_the_picture_command_draws(address: str) -> None:
    """A PNG of one head."""
    command = next(block for block in blocks("sh") if "head2.png" in block)
    here = command.replace("127.0.0.1:8000", address.removeprefix("http://"))
    drawn = here.replace(" > head2.png", "")
    done = subprocess.run(["bash", "-ec", drawn], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG\r\n")


class Attention(torch.nn.Module):
    """Four calls of F.scaled_dot_product_attention: causal, masked twice, and inside torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attend = torch.nn.functional.scaled_dot_product_attention
        x = attend(x, x, x, is_causal=True)
        mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).tril(2)
        x = attend(x, 5 * x, x, attn_mask=mask, scale=0.5)
        lowest = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        x = attend(x, x, x, attn_mask=lowest)
        return self.layer(x[:, 0])


def test_the_hook_captures_a_model_and_posts_it(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program of the README captures every call with its masks and prints a ranking."""
    program = next(block for block in blocks("python") if "def capture" in block)
    names = {"model": Attention(), "inputs": torch.randn(2, 3, 5, 8)}
    exec(program.replace("http://127.0.0.1:8000", address), names)
    answer = names["answer"].json()
    assert [group["name"] for group in answer["groups"]] == ["call0", "call1", "call2", "call3"]
    visible = [group["mask"]["visible_keys"]["mean"][0][0] for group in answer["groups"]]
    masked = (3 + 4 + 5 + 5 + 5) / 5
    assert visible == [3.0, masked, masked, 5.0]
    scaled = names["tensors"]["call1.query"] / names["tensors"]["call1.value"]
    torch.testing.assert_close(scaled, torch.full_like(scaled, 0.5 * 8**0.5))
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_three_lines_of_pytorch_reproduce_a_seeded_request(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The drawn tensors are those of PyTorch; the output agrees to rounding."""
    program = next(block for block in blocks("python") if "manual_seed" in block)
    exec(program, {})
    printed = capsys.readouterr().out
    request = re.search(r"request\n`(\{.*?\})`", README)
    assert request is not None
    command = (
        f"curl -s {address}/v1/attention -H 'Content-Type: application/json' -d '{request[1]}'"
    )
    output = torch.tensor(curl(command, address)["output"])
    expected = eval(printed, {"tensor": torch.tensor})
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    first = re.search(r"\[(0\.771199.*?)\] in the first row", README.replace("\n", " "))
    assert first is not None
    shown = [float(number.replace("−", "-")) for number in first[1].split(",")]
    torch.testing.assert_close(output[0, 0, 0], torch.tensor(shown), rtol=0, atol=1e-6)


def test_the_demo_runs_by_itself() -> None:
    """`make demo` starts the service, prints and ends."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "layer0    2     saturated" in done.stdout
    assert "72 heads" in done.stdout


def test_the_reference_is_up_to_date() -> None:
    """docs/reference.md is what `make docs` makes of the code's tables."""
    assert FILE.read_text(encoding="utf-8") == reference()


def test_every_make_target_of_the_readme_exists() -> None:
    """The README names no target that the Makefile lacks."""
    named = set(re.findall(r"`?make ([a-z]+)", README)) & {
        "serve", "test", "lint", "bench", "demo", "docs", "lock", "format", "clean", "stress",
    }  # fmt: skip
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_the_speed_is_told_in_figures() -> None:
    """The benchmark's table stands in the README, with a ratio for every shape."""
    rows = re.findall(r"^\| \d+×\d+×\d+×\d+ \|.*\|$", README, flags=re.MULTILINE)
    assert len(rows) == 6
    assert all(re.search(r"\d\.\d\d \(\d", row) for row in rows)
