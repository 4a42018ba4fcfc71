"""The table of bad requests. More routes bring modules of their own, each a line here."""

from dataclasses import replace

from tests.proof import bad_fields, bad_files, bad_headers, bad_inferences, bad_requests, bad_text
from tests.proof.rows import Row

TABLES = (bad_text, bad_fields, bad_requests, bad_files, bad_headers, bad_inferences)
ROWS: list[Row] = [
    replace(row, name=f"{table.__name__.rpartition('.')[2]}, {row.name}")
    for table in TABLES
    for row in table.ROWS
]
