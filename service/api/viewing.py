"""Pictures over HTTP: their query parameters, and the thread they are drawn on."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request, Response

from service.api.answering import answered
from service.api.receiving import unless_gone
from service.encodings import PICTURES
from service.engine.engine import Series
from service.errors import Invalid
from service.gallery import DRAWING_BYTES, View
from service.pictures.palettes import Theme as ThemeName
from service.wire.pieces import Content

BATCH, HEAD, THEME = "batch", "head", "theme"
# Without a default in the document: the docs page would send it with every answer asked for.
Theme = Annotated[ThemeName | None, Query(description="Of a picture: absent = light.")]
Batch = Annotated[int | None, Query(ge=0, description="Of a picture: the batch item; absent = 0.")]
Head = Annotated[int | None, Query(ge=0, description="Of a picture: absent = all, in a grid.")]
# What is drawn holds text of the caller's: a browser that opens it alone must not run anything.
_LOCKED = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
}


def view_of(http: Request, accept: str, view: View) -> View | None:
    """The view, where the answer is a picture; elsewhere its parameters would do nothing.

    Raises:
        Invalid: one is given, and the answer is no picture.
    """
    if accept in PICTURES:
        return view
    given = sorted({BATCH, HEAD, THEME} & http.query_params.keys())
    if given:
        raise Invalid(
            f"the query parameter {given[0]} is for pictures: send Accept {' or '.join(PICTURES)}",
            pointer=f"/{given[0]}",
        )
    return None


def drawing_bytes(view: View | None) -> int:
    """What a picture takes beside what it shows; nothing where the answer is none."""
    return 0 if view is None else DRAWING_BYTES


async def drawn(http: Request, view: View, draw: Callable[[], bytes], series: Series) -> Response:
    """A picture, drawn off the event loop, for as long as the caller waits for it."""
    content = Content([await unless_gone(http, series.draw(draw))])
    return answered(http, content, view.media_type, _LOCKED)
