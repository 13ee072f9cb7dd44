"""What the server answers, and above all what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from explored import BROKEN, GONE, Explored
from unlabeled.errors import ConfigError
from unlabeled.explorer import queries
from unlabeled.explorer.server import UPLOAD_BYTES, Server

Answer = tuple[int, dict[str, str], bytes]


def ask(server: Server, target: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, target, skip_host="Host" in sent, skip_accept_encoding=True)
        if body is not None and "Content-Length" not in sent:
            sent["Content-Length"] = str(len(body))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def sentence(answer: Answer, status: int) -> str:
    """The sentence of a refusal, which is always JSON."""
    assert answer[0] == status, answer
    assert answer[1]["Content-Type"] == "application/json"
    value = json.loads(answer[2])
    assert list(value) == ["error"]
    assert "Traceback" not in value["error"]
    return value["error"]


def found(server: Server, target: str) -> Any:
    status, headers, content = ask(server, target)
    assert status == 200, content
    assert headers["Content-Type"] == "application/json"
    return json.loads(content)


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts: list[bytes] = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_the_report_is_served_as_it_lies_there(server: Server, explored: Explored):
    report = explored.run.folder.report
    status, headers, content = ask(server, "/report")
    assert (status, headers["Content-Type"], content) == (200, "text/html; charset=utf-8", report.read_bytes())
    # Its scripts may run, by their own hashes, and may ask nobody for anything, this server neither.
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src" not in policy and "'self'" not in policy
    assert "'self'" in ask(server, "/")[1]["Content-Security-Policy"]
    away = report.rename(report.with_name("away.html"))
    try:
        assert "unlabeled report" in sentence(ask(server, "/report"), 404)
    finally:
        away.rename(report)
    assert ask(server, "/report/../config.json")[0] == 404


def test_pages_and_answers(server: Server, explored: Explored):
    assert found(server, "/api/run")["images"] == 120
    assert len(found(server, "/api/clusters?limit=3")["clusters"]) == 3
    assert found(server, "/api/clusters?order=tightness&offset=2")["offset"] == 2
    assert found(server, "/api/cluster/0?order=far&limit=2")["images"][0]["cluster"] == 0
    assert found(server, "/api/image/7")["index"] == 7
    assert found(server, "/api/find?text=kind1%2F00")["total"] == 3
    status, headers, content = ask(server, "/thumbnail/7")
    assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", b"\x89PNG")
    assert ask(server, "/picture/7")[0] == 200
    query = (explored.photos / "kind1" / "005.png").read_bytes()
    status, _, content = ask(server, "/api/search", "POST", query, Content_Type="image/png")
    assert status == 200
    assert json.loads(content)["neighbours"][0]["name"] == "kind1/005.png"


def packed(server: Server, target: str) -> bytes:
    status, headers, content = ask(server, target)
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream"), content
    return content


def the_map(server: Server) -> dict[str, Any]:
    while not (about := found(server, "/api/map"))["ready"]:
        assert about["count"] == 120
    return about


def test_the_map_is_packed(server: Server, explored: Explored):
    about = the_map(server)
    assert (about["count"], about["arranged"], about["clusters"]) == (120, 120, 6)
    places = np.frombuffer(packed(server, "/map/positions"), "<u2").reshape(-1, 2)
    assert places.shape == (120, 2)
    assert places.min(0).tolist() == [0, 0]
    assert places.max(0).tolist() == [65535, 65535]
    clusters = np.frombuffer(packed(server, "/map/clusters"), "<u2")
    assert clusters.tolist() == explored.run.catalogue.clusters.tolist()
    by_name = {one["name"]: (i, one) for i, one in enumerate(about["colourings"])}
    i, folder = by_name["folder"]
    assert folder["categories"] == ["kind0", "kind1", "kind2", "kind3"]
    codes = np.frombuffer(packed(server, f"/map/{i}"), "<u2")
    assert [folder["categories"][code] for code in codes] == [name[:5] for name in explored.run.names]
    i, distance = by_name["distance from the centre"]
    steps = np.frombuffer(packed(server, f"/map/{i}"), "u1")
    assert len(steps) == 120
    assert distance["ends"] == ["more typical", "less typical"]
    assert steps.argmax() in explored.run.catalogue.distances.topk(5).indices
    for wrong in ("/map/99", "/map/100"):
        sentence(ask(server, wrong), 422)
    for wrong in ("/map/", "/map/names", "/map/-1", "/map/positions/", "/map/1000"):
        sentence(ask(server, wrong), 404)


def test_names_of_chosen_images(server: Server, explored: Explored, monkeypatch: pytest.MonkeyPatch):
    def names(body: bytes) -> Answer:
        return ask(server, "/api/names", "POST", body, Content_Type="application/octet-stream")

    rows = np.array([7, 3, 119], "<u4")
    answer = json.loads(names(rows.tobytes())[2])
    assert answer == {"total": 3, "names": [explored.run.names[i] for i in rows]}
    assert json.loads(names(b"")[2])["names"] == []
    assert "four bytes" in sentence(names(b"abc"), 422)
    assert "0 to 119" in sentence(names(np.array([120], "<u4").tobytes()), 404)
    monkeypatch.setattr(queries, "MOST_NAMES", 2)
    assert json.loads(names(rows.tobytes())[2]) == {"total": 3, "names": answer["names"][:2]}
    sentence(ask(server, "/api/names"), 405)
    sentence(ask(server, "/api/names", "POST", b"x", Content_Type="text/plain"), 415)


def test_every_answer_forbids_what_it_can(server: Server):
    for target in (
        "/",
        "/explorer.js",
        "/map.js",
        "/map.css",
        "/report.css",
        "/api/map",
        "/map/positions",
        "/thumbnail/7",
        "/api/run",
        "/no-such-page",
    ):
        headers = ask(server, target)[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
    page = ask(server, "/")[2].decode()
    assert "onclick" not in page
    assert "style=" not in page
    assert "://" not in page


@pytest.mark.parametrize(
    "target",
    [
        "/../etc/passwd",
        "/thumbnail/../../etc/passwd",
        "/thumbnail/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/picture/..%5c..%5cwindows",
        "//etc/passwd",
        "/thumbnail//etc/passwd",
        "/thumbnail/7%00.png",
        "/thumbnail/-1",
        "/thumbnail/120",
        "/picture/999999999999999999",
        "/picture/99999999999999999999999999999999",
        "/thumbnail/1e3",
        "/thumbnail/+7",
        "/thumbnail/7/",
        "/thumbnail/7;x",
        "/thumbnail/",
        "/thumbnail/%D9%A3",
        "/api/image/1_0",
        "/api/cluster/99",
        "/pages/index.html",
        "/explorer.py",
        "/api",
        "http://127.0.0.1/etc/passwd",
    ],
)
def test_what_is_not_there(server: Server, target: str):
    said = sentence(ask(server, target), 404)
    assert "passwd" not in said
    assert "/" not in said.replace("begins at /.", "")


def test_null_bytes_and_nonsense_on_the_wire(server: Server):
    host = b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b" 404 " in raw(server, b"GET /thumbnail/7\0 HTTP/1.1" + host).split(b"\r\n")[0]
    for request in (
        b"\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9.9" + host,
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1" + host,
        b"\r\n",
    ):
        answer = raw(server, request)
        assert b"Traceback" not in answer
        assert b" 200 " not in answer


@pytest.mark.parametrize(
    "query",
    ["offset=-1", "offset=x", "offset=1e3", "limit=201", "limit=9999999999999999999999", "offset=%00", "order=random",
     "offset=9999999999999", "a&b&c&d&e&f&g&h&i&j", "offset=%ff"],
)  # fmt: skip
def test_queries_that_cannot_be_meant(server: Server, query: str):
    sentence(ask(server, f"/api/clusters?{query}"), 400)


def test_images_that_had_accidents(server: Server, explored: Explored):
    for name in (GONE, BROKEN):
        assert name in sentence(ask(server, f"/thumbnail/{explored.index(name)}"), 422)
        assert ask(server, f"/api/image/{explored.index(name)}")[0] == 200
    assert "nothing to look for" in sentence(ask(server, "/api/find?text="), 422)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost:80@evil.example",
        "",
        "[::1]",
    ],
)
def test_foreign_names_of_this_machine(server: Server, host: str):
    assert "answers to 127.0.0.1" in sentence(ask(server, "/api/run", Host=host), 403)
    sentence(ask(server, "/api/search", "POST", b"x", Host=host, Content_Type="image/png"), 403)


def test_two_hosts_or_none(server: Server):
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        assert (
            b" 403 "
            in raw(server, b"GET /api/run HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n").split(b"\r\n")[0]
        )


def test_tunnels_change_the_port(server: Server):
    assert ask(server, "/api/run", Host="localhost:9000", Origin="http://localhost:9000")[0] == 200


def test_pages_of_other_sites(server: Server):
    own = f"http://127.0.0.1:{server.server_port}"
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{server.server_port}",
        "http://127.0.0.1:1",
        f"{own}.evil.example",
    ):
        for kind in ("image/png", "text/plain"):
            said = sentence(ask(server, "/api/search", "POST", b"x", Origin=origin, Content_Type=kind), 403)
            assert "other sites" in said
    sentence(ask(server, "/thumbnail/7", Sec_Fetch_Site="cross-site"), 403)
    sentence(ask(server, "/api/run", Sec_Fetch_Site="same-site"), 403)
    assert ask(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link in a chat may lead here
    assert ask(server, "/api/run", Sec_Fetch_Site="same-origin", Origin=own)[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_other_methods(server: Server, method: str):
    answer = ask(server, "/thumbnail/7", method)
    assert "only GET" in sentence(answer, 405)
    assert answer[1]["Allow"] == "GET, HEAD, POST"


def test_methods_in_the_wrong_place(server: Server):
    sentence(ask(server, "/api/search"), 405)
    sentence(ask(server, "/api/run", "POST", b"", Content_Type="image/png"), 405)
    sentence(ask(server, "/thumbnail/7", "POST", b"", Content_Type="image/png"), 404)
    status, headers, content = ask(server, "/thumbnail/7", "HEAD")
    assert (status, content) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_uploads_that_are_refused(server: Server):
    def post(body: bytes | None, **headers: str) -> Answer:
        return ask(server, "/api/search", "POST", body, **({"Content_Type": "image/png"} | headers))

    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/html", ""):
        sentence(post(b"x", Content_Type=kind), 415)
    assert f"at most {UPLOAD_BYTES:,}" in sentence(post(None, Content_Length=str(UPLOAD_BYTES + 1)), 413)
    sentence(post(None, Content_Length="9" * 17), 413)
    for length in ("-5", "x", "", "1 1", "9" * 30):
        sentence(post(None, Content_Length=length), 411)
    sentence(post(None), 411)
    sentence(post(b"0\r\n\r\n", Content_Length="5", Transfer_Encoding="chunked"), 411)
    for body in (b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n" + b"\0" * 90):
        assert "this file cannot be searched for" in sentence(post(body), 422)
    short = raw(
        server,
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 50\r\n\r\nabc",
    )
    assert b"cut short: 3 of 50 bytes" in short


def test_a_refused_body_is_not_the_next_request(server: Server):
    hidden = b"GET /api/run HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"Host: localhost\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    for line in (b"GET /nothing HTTP/1.1\r\n", b"POST /api/search HTTP/1.1\r\n"):
        assert raw(server, line + head + hidden).count(b"HTTP/1.1 ") == 1


def test_it_listens_on_this_machine_only(server: Server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_names_a_free_one(explored: Explored, server: Server):
    with pytest.raises(ConfigError, match=f"port {server.server_port} is taken .*--port [0-9]+ is free") as caught:
        Server(explored.answers, server.server_port)
    free = int(str(caught.value).split("--port ")[1].split(" ")[0])
    with Server(explored.answers, free) as other:
        assert other.server_port == free
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="between 0 and 65535"):
            Server(explored.answers, port)


def test_many_at_once(server: Server, explored: Explored):
    usable = [i for i in range(60) if explored.run.names[i] not in (GONE, BROKEN)]
    alone = [ask(server, f"/thumbnail/{i}")[2] for i in usable]
    explored.answers.pictures._kept.clear()
    explored.answers.pictures._bytes = 0
    together: dict[int, bytes] = {}

    def fetch(part: list[int]) -> None:
        for i in part:
            together[i] = ask(server, f"/thumbnail/{i}")[2]

    threads = [threading.Thread(target=fetch, args=(usable[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in usable] == alone


@pytest.fixture
def guarded(explored: Explored) -> Iterator[Server]:
    with Server(explored.answers, 0, "secret") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_nothing_is_answered_without_the_token(guarded: Server):
    assert guarded.address.endswith("/?token=secret")
    status, headers, content = ask(guarded, "/")
    assert status == 403 and b"asks for its token" in content and headers["Content-Type"].startswith("text/html")
    for target in ("/api/run", "/thumbnail/0", "/explorer.js", "/report", "/?token=wrong", "/api/run?token=secret"):
        assert ask(guarded, target)[0] == 403, target
    assert "token is missing" in sentence(ask(guarded, "/api/search", "POST", b"x", Content_Type="image/png"), 403)
    for cookie in ("unlabeled-1=secret", f"unlabeled-{guarded.server_port}=secre", "\xff;;=", "a" * 5000):
        assert ask(guarded, "/api/run", Cookie=cookie)[0] == 403


def test_the_address_earns_a_cookie_that_opens_everything(guarded: Server):
    status, headers, _ = ask(guarded, "/?token=secret")
    assert status == 303 and headers["Location"] == "/"
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].split(";")[0]
    assert ask(guarded, "/", Cookie=cookie)[0] == 200
    assert ask(guarded, "/api/run", Cookie=f"other=1; {cookie}")[0] == 200
    assert ask(guarded, "/api/run", Authorization="Bearer secret")[0] == 200
    assert ask(guarded, "/api/run", Authorization="Bearer other")[0] == 403


def test_five_hundred_requests_at_once_are_all_answered(server: Server):
    statuses: list[int] = []

    def one() -> None:
        statuses.append(ask(server, "/api/run")[0])

    threads = [threading.Thread(target=one) for _ in range(500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 500 and set(statuses) <= {200, 503} and statuses.count(200) > 400


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queries, "UPLOAD_PIXELS", 1000)
    monkeypatch.setattr(queries, "decode", None)
    stream = io.BytesIO()
    Image.new("L", (2000, 2000)).save(stream, "PNG")
    answer = ask(server, "/api/search", "POST", stream.getvalue(), Content_Type="image/png")
    assert "declares 4,000,000 pixels and a search takes at most 1,000" in sentence(answer, 422)
