"""The ASGI app: state, middleware, routes and error handlers put together. Start reading here.

    python -m service

runs it with draining and connection limits (`server.py`), which uvicorn's own command line would leave out.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from service import documents, routes
from service.cvat import routes as cvat
from service.errors import MAPPED_ERRORS, problem_of, problem_response
from service.gate import Gate
from service.labelstudio import routes as labelstudio
from service.middleware import Envelope
from service.oip import routes as oip
from service.openapi import document
from service.settings import Settings
from service.state import Service

if TYPE_CHECKING:
    from inference.predictor import Predictor


def create_app(settings: Settings, predictors: "Mapping[str, Predictor] | None" = None) -> FastAPI:
    """Build the app.

    predictors: by model name, the first is the default; then they run in this process, and the app is ready
        at once. Without them the models of `settings` are opened in worker processes when the app starts, and
        /readyz answers 503 until they are.
    The app's `state.service` is the `Service` behind it.
    """
    service = Service(settings, predictors)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="PSANet segmentation",
        version=documents.service_version(),
        summary="Labels every pixel of an image with a point-wise spatial attention network.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for error in (HTTPException, RequestValidationError, *MAPPED_ERRORS):
        app.add_exception_handler(error, _answer_problem)
    # The last one added is the outermost.
    app.add_middleware(Gate, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["X-Model", "X-Request-ID", "Server-Timing", "Retry-After"],
        )
    app.add_middleware(Envelope, service=service)
    for router in (routes.router, oip.router, labelstudio.router, cvat.router):
        app.include_router(router)
    documents.mount(app)
    document.install(app)
    return app


async def _answer_problem(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    request.app.state.service.metrics.problems.labels(problem.code).inc()
    return problem_response(problem, request.scope)
