"""The documentation that the API serves about itself: the OpenAPI document and its pages, made once at start."""

from __future__ import annotations

from api.operations import Answer, Routes, Shape
from api.services import Services

routes = Routes("documentation", prefix="")

HTML = "text/html; charset=utf-8"


@routes.get("/openapi.json", permission=None, answers={200: Shape("this document")})
def get_openapi(services: Services) -> Answer:
    """The OpenAPI 3.1 document of this API."""
    return Answer(services.documents.openapi)


@routes.get("/docs", permission=None, answers={200: Shape("a page", media_type="text/html")})
def get_docs(services: Services) -> Answer:
    """The reference as a page that asks nobody else for anything."""
    return Answer(services.documents.reference, media_type=HTML)


@routes.get("/docs/problems", permission=None, answers={200: Shape("a page", media_type="text/html")})
def get_problem_docs(services: Services) -> Answer:
    """The codes that problems carry.

    A problem's `type` leads to its place here.
    """
    return Answer(services.documents.problems, media_type=HTML)


@routes.get("/docs/style.css", permission=None, answers={200: Shape("a style sheet", media_type="text/css")})
def get_docs_style(services: Services) -> Answer:
    """The style sheet of the pages."""
    return Answer(services.documents.style, media_type="text/css; charset=utf-8")
