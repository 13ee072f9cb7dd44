"""A small server for one person on one machine: pages, JSON and pictures of a run, and nothing else.

It listens on 127.0.0.1 only and writes nothing. Other users of the machine need the token that was printed (`access`), and
pages of other sites are kept out: a request must name this machine as its host (a foreign name that was made to point
here is refused) and must not come from another origin. Images are asked for by number, so no path of the file system is
ever made from a request. Whatever is refused is answered with one sentence as JSON.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Final, get_args
from urllib.parse import parse_qs

from unlabeled import progress
from unlabeled.errors import ConfigError, UnlabeledError
from unlabeled.explorer.access import PAGE, Access
from unlabeled.explorer.order import ClusterOrder, MemberOrder
from unlabeled.explorer.queries import Answers, NotThere
from unlabeled.explorer.thumbnails import Picture
from unlabeled.report.page import environment

ADDRESS: Final = "127.0.0.1"
HOSTS: Final = frozenset({"127.0.0.1", "localhost"})
"""Names of this machine; any port, because tunnels change it."""
UPLOAD_BYTES: Final = 64 << 20
"""The largest image file a search takes."""
MOST_AT_ONCE: Final = 200
"""Entries of one page of anything."""
PORTS_TRIED: Final = 100
MOST_THREADS: Final = 128
"""Connections that are served at once; others wait in the queue of the system."""
WAIT_SECONDS: Final = 1.0
"""A connection that finds no free thread for so long is answered 503."""
HEADER_SECONDS: Final = 5.0
"""The line and the headers of a request must have arrived after so long, however slowly they come."""
BODY_SECONDS: Final = 60.0
"""So must what is sent behind them, from where the token is known."""
SILENCE_SECONDS: Final = 4.0
"""A connection that says nothing for so long is closed; browsers open another."""

# No inline script or style, no form, no frame, no request to anywhere else; a dropped image is shown from memory (blob:).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The report has its scripts inside and says by their hashes which may run; to this server and to others it speaks never.
_REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("unlabeled.explorer", "pages/index.html", "text/html; charset=utf-8"),
    "/explorer.css": ("unlabeled.explorer", "pages/explorer.css", "text/css; charset=utf-8"),
    "/explorer.js": ("unlabeled.explorer", "pages/explorer.js", "text/javascript; charset=utf-8"),
    "/report.css": ("unlabeled.report", "templates/report.css", "text/css; charset=utf-8"),
    "/map.css": ("unlabeled.report", "templates/map.css", "text/css; charset=utf-8"),
    "/map.js": ("unlabeled.report", "templates/map.js", "text/javascript; charset=utf-8"),
}
_NUMBERED = re.compile(r"/(api/cluster|api/image|thumbnail|picture)/([0-9]{1,18})")
_PARTS = re.compile(r"/map/(positions|clusters|[0-9]{1,3})")
_LISTS = ("/api/run", "/api/clusters", "/api/find", "/api/map")
_REPORT = "/report"
_SEARCH = "/api/search"
_NAMES = "/api/names"
_SENT = f"{_SEARCH} and {_NAMES}"


_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b'Content-Length: 55\r\n\r\n{"error": "too many requests at once; try again soon."}'
)


class Refused(UnlabeledError):
    """A request that is not answered, with the status of HTTP that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one run; `address` is what to open in a browser."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, answers: Answers, port: int, token: str | None = None) -> None:
        """`token`: what requests must know (see `access`); None answers everybody.

        Raises ConfigError where the port is taken, naming the next free one, or cannot be used.
        """
        self.answers = answers
        self.access = Access(token)
        self._slots = threading.BoundedSemaphore(MOST_THREADS)
        self.files = {
            path: Picture((resources.files(package) / name).read_bytes(), media_type)
            for path, (package, name, media_type) in _FILES.items()
        }
        # The map is the same piece of HTML here and in the report.
        page = environment().from_string(self.files["/"].content.decode()).render()
        self.files["/"] = Picture(page.encode(), self.files["/"].media_type)
        if not 0 <= port <= 65535:
            raise ConfigError(f"--port must be between 0 and 65535, got {port}; 0 takes any that is free.")
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise ConfigError(_port_sentence(port, error)) from None

    @property
    def address(self) -> str:
        """URL of the first page, with the token."""
        return self.access.address(f"http://{ADDRESS}:{self.server_port}/")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread of its own, of which there are so many at most; refuse where none is free for long."""
        if not self._slots.acquire(timeout=WAIT_SECONDS):
            with suppress(OSError):
                request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Called in the thread; gives its place back at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle is no error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_SECONDS

    def handle_one_request(self) -> None:
        """Read and answer one request; a connection that dribbles is cut off."""
        self._allow(HEADER_SECONDS)
        try:
            super().handle_one_request()
        finally:
            self._limit.cancel()

    def _allow(self, seconds: float) -> None:
        """Cut the connection off after so long, unless the request has arrived."""
        self._limit = threading.Timer(seconds, self._cut_off)
        self._limit.daemon = True
        self._limit.start()

    def _cut_off(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def do_GET(self) -> None:
        """Pages, JSON and pictures."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """The headers of the same."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """The search with an image, and the names of chosen ones."""
        self._answer(self._post)

    def version_string(self) -> str:
        """What the header Server says."""
        return "unlabeled"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the terminal is the person's."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Called by the library for what is no HTTP, and for other methods."""
        self.close_connection = True
        if code == 501:
            self._refuse(405, f"only GET, HEAD and, for {_SENT}, POST are answered here.")
        else:
            self._refuse(code, f"this request cannot be understood (HTTP status {code}).")

    def _answer(self, make: Callable[[], Picture]) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            # What is sent and not read must not pass for the next request.
            self.close_connection = True
        try:
            self._admit()
            if not self.server.access.knows(self.headers, self.server.server_port):
                self._let_in()
                return
            found = make()
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except NotThere as error:
            self._refuse(404, str(error))
        except UnlabeledError as error:
            self._refuse(422, str(error))
        else:
            self._send(200, found)

    def _admit(self) -> None:
        # DNS rebinding: a page of a foreign site whose name now points to this machine still sends its own name as host.
        hosts = self.headers.get_all("Host") or []
        host = hosts[0] if len(hosts) == 1 else ""
        name, _, port = host.partition(":")
        if name.lower() not in HOSTS or (port and not (port.isascii() and port.isdigit())):
            raise Refused(403, f"this server answers to {ADDRESS} and localhost only; open {self.server.address}")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, "requests from pages of other sites are not answered.")
        came_from = self.headers.get("Sec-Fetch-Site", "none")
        if came_from not in ("none", "same-origin") and self.path != "/":
            raise Refused(403, "requests from pages of other sites are not answered.")

    def _let_in(self) -> None:
        """A request without the cookie: the address with the token earns it, everything else is told how to get in."""
        path, _, query = self.path.partition("?")
        cookie = self.server.access.cookie_for(query, self.server.server_port) if path == "/" else None
        if cookie is not None and self.command == "GET":
            self._send(303, Picture(b"", "text/plain"), {"Set-Cookie": cookie, "Location": "/"})
        elif path == "/":
            self._send(403, Picture(PAGE.encode(), "text/html; charset=utf-8"))
        else:
            self._refuse(403, "the token is missing: open the whole address that `unlabeled explore` printed.")

    def _get(self) -> Picture:
        path, _, query = self.path.partition("?")
        if path in self.server.files:
            return self.server.files[path]
        if path in (_SEARCH, _NAMES):
            body = "an image file" if path == _SEARCH else "the numbers of images"
            raise Refused(405, f"{path} wants POST, with {body} as the body.")
        answers = self.server.answers
        if path in _LISTS:
            return _as_json(self._list(path, _Query(query)))
        if path == _REPORT:
            return answers.report()
        if part := _PARTS.fullmatch(path):
            return Picture(answers.places.packed(part[1]), "application/octet-stream")
        if not (match := _NUMBERED.fullmatch(path)):
            raise Refused(404, "there is no such page; the explorer begins at /.")
        kind, number = match[1], int(match[2])
        if kind == "api/cluster":
            asked = _Query(query)
            by = asked.one_of("order", get_args(MemberOrder))
            return _as_json(answers.cluster(number, by, asked.offset, asked.limit))
        answers.require(number)
        if kind == "api/image":
            return _as_json(answers.image(number))
        return answers.pictures.thumbnail(number) if kind == "thumbnail" else answers.pictures.large(number)

    def _list(self, path: str, asked: _Query) -> dict[str, Any]:
        answers = self.server.answers
        if path == "/api/run":
            return answers.about()
        if path == "/api/map":
            return answers.places.state()
        if path == "/api/clusters":
            return answers.clusters(asked.one_of("order", get_args(ClusterOrder)), asked.offset, asked.limit)
        return answers.find(asked.text("text"), asked.offset, asked.limit)

    def _post(self) -> Picture:
        if self.path not in (_SEARCH, _NAMES):
            raise Refused(405 if self.path in (*self.server.files, *_LISTS) else 404, f"only {_SENT} take POST.")
        kind = self.headers.get_content_type()
        # Neither kind can be sent by another site without asking first, and we never say yes.
        if kind != "application/octet-stream" and not kind.startswith("image/"):
            raise Refused(
                415,
                f"what is sent must be an image file (Content-Type image/… or application/octet-stream), got {kind}.",
            )
        answers = self.server.answers
        return _as_json((answers.search if self.path == _SEARCH else answers.names)(self._body()))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "a search must say how long its image is (Content-Length).")
        if int(length) > UPLOAD_BYTES:
            raise Refused(
                413, f"the file has {int(length):,} bytes and a search takes at most {UPLOAD_BYTES:,}: make it smaller."
            )
        self._limit.cancel()
        self._allow(BODY_SECONDS)
        self.connection.settimeout(BODY_SECONDS)
        try:
            content = self.rfile.read(int(length))
        except TimeoutError:
            raise Refused(408, "the image did not arrive in time.") from None
        if len(content) < int(length):
            raise Refused(400, f"the image is cut short: {len(content):,} of {int(length):,} bytes arrived.")
        return content

    def _refuse(self, status: int, sentence: str) -> None:
        self._send(status, _as_json({"error": sentence}))

    def _send(self, status: int, answer: Picture, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        is_report = status == 200 and self.path.partition("?")[0] == _REPORT
        policy = {"Content-Security-Policy": _REPORT_POLICY} if is_report else {}
        for name, value in (_HEADERS | policy | dict(more or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.content)))
        if status == 405:
            self.send_header("Allow", "GET, HEAD, POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)


class _Query:
    """The part of an address behind the question mark. Raises Refused for what cannot be meant."""

    def __init__(self, query: str) -> None:
        try:
            self._values = parse_qs(query, keep_blank_values=True, max_num_fields=8, errors="strict")
        except (ValueError, UnicodeDecodeError):
            raise Refused(400, "what stands behind the question mark cannot be understood.") from None

    @property
    def offset(self) -> int:
        return self._number("offset", 0, 10**12)

    @property
    def limit(self) -> int:
        return max(1, self._number("limit", 48, MOST_AT_ONCE))

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[-1]

    def one_of(self, name: str, known: tuple[Any, ...]) -> Any:
        value = self._values.get(name, [known[0]])[-1]
        if value not in known:
            raise Refused(400, f"{name} must be one of {', '.join(known)}.")
        return value

    def _number(self, name: str, default: int, most: int) -> int:
        value = self._values.get(name, [str(default)])[-1]
        if not re.fullmatch("[0-9]{1,18}", value) or int(value) > most:
            raise Refused(400, f"{name} must be a whole number from 0 to {most:,}.")
        return int(value)


def _as_json(value: dict[str, Any]) -> Picture:
    return Picture(json.dumps(value).encode(), "application/json")


def _port_sentence(port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"--port {port} cannot be used ({error.strerror or error}); choose another, for example --port 8765."
    free = next((other for other in range(port + 1, min(port + PORTS_TRIED, 65535) + 1) if _is_free(other)), 0)
    return f"port {port} is taken by another program; --port {free} {'is free' if free else 'takes any that is free'}."


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def serve(answers: Answers, port: int, browser: bool, token: bool = True) -> None:
    """Say the address, open it in the browser where asked, and answer until Ctrl-C or SIGTERM.

    Without `token` every user of this machine can look. Raises ConfigError as `Server` does.
    """
    if threading.current_thread() is threading.main_thread():
        # Programs started in the background of a script inherit a SIGINT that is ignored.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
    # From the first word on: whoever reads the address may press Ctrl-C before the first request is waited for.
    with Server(answers, port, Access.new_token() if token else None) as server, suppress(KeyboardInterrupt):
        progress.say(f"Explorer: {server.address}  (Ctrl-C ends it)")
        threading.Thread(target=answers.warm_up, daemon=True).start()
        if browser:
            webbrowser.open(server.address)
        server.serve_forever()
    progress.say("The explorer has ended.")
