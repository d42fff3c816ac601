"""Health over HTTP. Importing this needs uvicorn, which comes with the extras `kafka` and
`metrics`.
"""

from saga.adapters.http.all_pages import all_pages
from saga.adapters.http.probes import LIVE, READY, Answer, answer, application, pages
from saga.adapters.http.role import HttpRole
from saga.adapters.http.server import HttpServer

__all__ = [
    "LIVE",
    "READY",
    "Answer",
    "HttpRole",
    "HttpServer",
    "all_pages",
    "answer",
    "application",
    "pages",
]
