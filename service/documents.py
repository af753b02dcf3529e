"""Everything served from files: the page at /, the API's documentation at /docs. No CDN; works offline."""

from importlib import metadata, util
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parent / "page"


def service_version() -> str:
    """Version of the installed distribution, or 0 when run from a tree that was never installed."""
    try:
        return metadata.version("psanet-serving")
    except metadata.PackageNotFoundError:
        return "0"


def mount(app: FastAPI) -> None:
    """Add the page and the documentation to the app."""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", _Revalidated(PAGE), name="page")
    app.mount("/swagger", _Revalidated(_swagger_folder()), name="swagger")


class _Revalidated(StaticFiles):
    """Files that a browser may keep but asks about each time, so that an update is seen at once."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def _swagger_folder() -> Path:
    """Swagger UI's files, as the package fastapi-offline ships them; its Python code is not used."""
    spec = util.find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("/docs needs Swagger UI's files: pip install 'psanet-serving[serve]'")
    return Path(spec.submodule_search_locations[0]) / "static"
