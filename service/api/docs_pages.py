"""The docs pages, with leave to run their own script and nothing else, and what they show."""

import re
from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from service.api.paths import DOCUMENT, STATIC

router = APIRouter(include_in_schema=False)
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Both write styles into the page, and hold pictures as data; a picture that was asked for on the
# page is a blob, and so is the worker that searches.
_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/")
async def to_the_docs() -> RedirectResponse:
    """The first thing to look at."""
    return RedirectResponse("/docs")


@router.get("/docs")
async def swagger_page(request: Request) -> HTMLResponse:
    """Swagger UI, which tries things out."""
    app: FastAPI = request.app
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=root + DOCUMENT,
        title=app.title,
        oauth2_redirect_url=None,
        swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{root}{STATIC}/favicon.png",
        swagger_ui_parameters=app.swagger_ui_parameters,
    )
    return _allowed(page)


@router.get("/redoc")
async def redoc_page(request: Request) -> HTMLResponse:
    """ReDoc, which reads better."""
    app: FastAPI = request.app
    root = request.scope.get("root_path", "")
    page = get_redoc_html(
        openapi_url=root + DOCUMENT,
        title=app.title,
        redoc_js_url=f"{root}{STATIC}/redoc.standalone.js",
        redoc_favicon_url=f"{root}{STATIC}/favicon.png",
        with_google_fonts=False,
    )
    return _allowed(page)


@router.api_route(DOCUMENT, methods=["GET", "HEAD"])
def openapi_document(request: Request) -> JSONResponse:
    """The OpenAPI document, below the path that a proxy puts before this service's."""
    # Not async: making it takes a fifth of a second, and runs on a thread beside the event loop.
    app: FastAPI = request.app
    root = request.scope.get("root_path", "").rstrip("/")
    servers = {"servers": [{"url": root}]} if root else {}
    return JSONResponse(app.openapi() | servers)


def files() -> StaticFiles:
    """The scripts and styles that the pages load."""
    return StaticFiles(packages=[("fastapi_offline", "static")])


def _allowed(page: HTMLResponse) -> HTMLResponse:
    """The scripts that stand in the page, by their hashes."""
    scripts = [sha256(script).digest() for script in _INLINE_SCRIPT.findall(bytes(page.body))]
    hashes = "".join(f" 'sha256-{b64encode(digest).decode()}'" for digest in scripts)
    page.headers["Content-Security-Policy"] = _POLICY.format(scripts=hashes)
    return page
