"""Who may use the explorer: those who know the token in the address it printed.

Every other user of the same machine can reach a port of 127.0.0.1. The token comes once in the address, as with
notebooks, and is then kept in a cookie that scripts cannot read and other sites cannot send. Programs may send it as
`Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import hmac
import secrets
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Explorer</title></head>
<body><h1>This explorer asks for its token</h1>
<p>Open the whole address that <code>unlabeled explore</code> printed: it ends in <code>?token=…</code>.</p>
</body></html>
"""
"""What is answered to a browser without the token."""


class Access:
    """The token of one server; None lets everybody in."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    @staticmethod
    def new_token() -> str:
        """A token that cannot be guessed."""
        return secrets.token_urlsafe(24)

    def address(self, base: str) -> str:
        """The address that lets a browser in."""
        return base if self._token is None else f"{base}?token={self._token}"

    def knows(self, headers: Message, port: int) -> bool:
        """Whether the headers of a request carry the token."""
        if self._token is None:
            return True
        scheme, _, sent = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(sent.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("Cookie", "")).get(self._cookie_name(port))
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def cookie_for(self, query: str, port: int) -> str | None:
        """The cookie that a request with this query earns; None where the query does not carry the token."""
        try:
            sent = parse_qs(query, max_num_fields=8).get("token", [""])[-1]
        except ValueError:
            return None
        if self._token is None or not self._is_token(sent):
            return None
        return f"{self._cookie_name(port)}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    def _is_token(self, sent: str) -> bool:
        # In the same time whatever is sent: the time of a plain comparison tells how many letters are right.
        return self._token is not None and hmac.compare_digest(sent.encode(), self._token.encode())

    @staticmethod
    def _cookie_name(port: int) -> str:
        # Cookies do not know ports, and several explorers may run at once.
        return f"unlabeled-{port}"
