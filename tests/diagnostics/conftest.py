"""Both passes."""

from tests.passes import each_pass  # noqa: F401 - a fixture of every test here
