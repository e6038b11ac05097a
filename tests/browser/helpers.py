"""Pages of this machine alone: what serves them, and what notes where else they ask and what goes wrong."""

import functools
import http.server
import threading
from contextlib import contextmanager


@contextmanager
def served(folder):
    """The address of a web server of this folder, on this machine only."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def opened(browser, address, own, **options):
    """A page, and what it asked for from elsewhere than ``own``, and the errors on its console."""
    page = browser.new_page(**options)
    page.foreign, page.errors = [], []
    local = (own, "data:", "blob:", "about:")
    page.on("request", lambda request: request.url.startswith(local) or page.foreign.append(request.url))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    yield page
    page.close()
