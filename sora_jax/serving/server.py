"""HTTP before a studio: who may ask, how much, and how.

  GET  /                 the page, or where a token is needed, the form that asks for it
  POST /login            token=... -> a cookie that lasts as long as the server
  GET  /state            {"jobs", "limits", "defaults", "grid"}
  POST /generate         {"prompt", "size", "frames", "seed", "steps", "guidance"} -> {"id"}
  GET  /results/FILE     an mp4 or png

Errors are {"error": ...} with a status of 4xx or 503. Programs send the token as
`Authorization: Bearer TOKEN`. It is compared in constant time, and is in no address, no
log and no file; nor are prompts logged. There are no uploads.

What a stranger's page could make a browser do: a POST must come from this page (Origin,
Sec-Fetch-Site, and a content type that forms cannot send); without a token, the Host must
be a name of this machine, since any name can be made to point here (DNS rebinding).

Used by: sora_jax/serve.py. Next: connections.py, studio.py, page.py, assets.py.
"""

import hashlib
import hmac
import http
import http.server
import ipaddress
import json
import re
import secrets
import socket
import sys
import time
import urllib.parse
from http.cookies import CookieError, SimpleCookie
from typing import Any

from sora_jax.serving import assets, connections, page
from sora_jax.serving.studio import Full, Studio

_BODY = 64 << 10  # bytes of a request
_SLICE = 64 << 10  # bytes of an answer, sent at once
_SILENCE = 10.0  # seconds in which a client must say something, or take a slice
_LEAST_TOKEN = 16  # characters
_WRONG_TOKEN = 0.5  # seconds that a wrong one costs
_HEADERS = {
  "Content-Security-Policy": (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
  ),
  "X-Content-Type-Options": "nosniff",
  # Not "no-referrer": browsers would send the form that logs in with `Origin: null`.
  "Referrer-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cache-Control": "no-store",
}
_TYPES = {".mp4": "video/mp4", ".png": "image/png"}


class Refusal(Exception):
  """An answer that is not what was asked for."""

  def __init__(self, status: int, text: str, **headers: str):
    super().__init__(text)
    self.status = status
    self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def is_loopback(host: str) -> bool:
  """Whether only this machine can reach the address."""
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return host == "localhost"


def check(host: str, port: int, token: str) -> None:
  """Raises ValueError where anybody could ask."""
  fine = token.isascii() and token.isprintable() and len(token) >= _LEAST_TOKEN
  if token and not fine:
    raise ValueError(f"the token must have at least {_LEAST_TOKEN} ASCII characters")
  if not token and not is_loopback(host):
    raise ValueError(
      f"--host={host} lets other machines in: give --token_file=FILE, a line of at least "
      f"{_LEAST_TOKEN} characters that its users must know. Or keep --host=127.0.0.1, "
      f"and reach it by ssh -L {port}:localhost:{port} MACHINE"
    )


class Server(http.server.ThreadingHTTPServer):
  """Listens; a thread a connection, as many as connections.py admits."""

  daemon_threads = True
  request_queue_size = 64

  def __init__(self, studio: Studio, *, host: str, port: int, token: str = "",
               title: str = "sora_jax"):  # fmt: skip
    """Binds the address.

    Raises:
      ValueError: other machines can reach it, and there is no token; or it is taken.
    """
    check(host, port, token)
    self.studio, self.title = studio, title
    # Digests have one length, so that comparing them tells nothing of the token's.
    self._token = hashlib.sha256(token.encode()).digest() if token else None
    self._session = secrets.token_urlsafe(32)  # of the cookie
    self.connections = connections.Connections()
    self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
      super().__init__((host.strip("[]"), port), Handler)
    except (OSError, OverflowError) as error:
      raise ValueError(f"cannot listen at --host={host} --port={port}: {error}") from error
    self._cookie = f"sora_jax_{self.server_port}"  # browsers take ports for one place

  @property
  def needs_token(self) -> bool:
    return self._token is not None

  def is_token(self, text: str) -> bool:
    given = hashlib.sha256(text.encode(errors="replace")).digest()
    return self._token is not None and hmac.compare_digest(given, self._token)

  def cookie(self) -> str:
    return f"{self._cookie}={self._session}; HttpOnly; SameSite=Strict; Path=/"

  def is_session(self, header: str) -> bool:
    try:
      given = SimpleCookie(header)[self._cookie].value
    except (CookieError, KeyError):
      return False
    return hmac.compare_digest(given.encode(), self._session.encode())

  def process_request(self, request: socket.socket, client_address: Any) -> None:
    if self.connections.admit(request, client_address[0]):
      super().process_request(request, client_address)
    else:
      self.shutdown_request(request)

  def shutdown_request(self, request: socket.socket) -> None:
    self.connections.leave(request)
    super().shutdown_request(request)

  def service_actions(self) -> None:
    self.connections.end_late()

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Nothing: clients that are gone are no news, and the rest was told (`_answer`)."""


class Handler(http.server.BaseHTTPRequestHandler):
  """One request."""

  server: Server
  server_version, sys_version = "sora_jax", ""
  timeout = _SILENCE

  def setup(self) -> None:
    # Small, so that what waits in it does not hide for long that a client takes it.
    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _SLICE)
    super().setup()

  def do_GET(self) -> None:
    self._answer(self._get)

  def do_HEAD(self) -> None:
    self._answer(self._get)

  def do_POST(self) -> None:
    self._answer(self._post)

  def _answer(self, route) -> None:
    try:
      self._check_host()
      route(self.path.partition("?")[0])
    except Refusal as refusal:
      self._send_json({"error": str(refusal)}, refusal.status, **refusal.headers)
    except Full as error:
      self._send_json({"error": str(error)}, 503, **{"Retry-After": "10"})
    except ValueError as error:
      self._send_json({"error": str(error)}, 400)
    except OSError:
      raise  # the client is gone, or says nothing
    except Exception as error:  # ours
      print(f"a request failed: {error!r}", file=sys.stderr, flush=True)
      self._send_json({"error": "the server failed; its log says more"}, 500)

  def _get(self, path: str) -> None:
    if path in assets.FILES:
      return self._send(*assets.FILES[path])
    if not self._is_allowed():
      if path == "/":
        return self._send(page.login(), "text/html", 401)
      raise Refusal(401, "a token is needed", WWW_Authenticate="Bearer")
    studio = self.server.studio
    if path == "/":
      return self._send(page.main(self.server.title), "text/html")
    if path == "/state":
      return self._send_json({
        "jobs": studio.state(), "limits": vars(studio.limits),
        "defaults": vars(studio.defaults), "grid": studio.grid,
      })  # fmt: skip
    # Names are looked up, and never make a path.
    file = studio.file(path.removeprefix("/results/"))
    if file is None:
      raise Refusal(404, "there is nothing here")
    try:
      content = file.read_bytes()
    except FileNotFoundError as error:
      raise Refusal(404, "there is nothing here") from error
    except OSError as error:  # of our disk: no client that is gone
      raise RuntimeError(f"{file} cannot be read: {error}") from error
    return self._send_file(content, _TYPES[file.suffix])

  def _post(self, path: str) -> None:
    body = self._body()
    self._check_origin()
    if path == "/login":
      return self._log_in(body)
    if path != "/generate":
      raise Refusal(404, "there is nothing here")
    if not self._is_allowed():
      raise Refusal(401, "a token is needed", WWW_Authenticate="Bearer")
    if self.headers.get_content_type() != "application/json":
      raise Refusal(415, "a request is application/json")
    try:
      asked = json.loads(body)
    except (ValueError, RecursionError) as error:
      raise Refusal(400, f"the request is not JSON: {str(error)[:100]}") from error
    if not isinstance(asked, dict):
      raise Refusal(400, "the request is not a JSON object")
    return self._send_json({"id": self.server.studio.submit(asked).id}, 202)

  def _log_in(self, body: bytes) -> None:
    fields = urllib.parse.parse_qs(body.decode("ascii", "replace"), max_num_fields=8)
    if not self.server.is_token(fields.get("token", [""])[0].strip()):
      time.sleep(_WRONG_TOKEN)
      return self._send(page.login(wrong=True), "text/html", 401)
    cookie = {"Set-Cookie": self.server.cookie(), "Location": "/"}
    return self._send(b"", "text/plain", 303, **cookie)

  def _is_allowed(self) -> bool:
    if not self.server.needs_token:
      return True
    kind, _, given = self.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
      if self.server.is_token(given.strip()):
        return True
      time.sleep(_WRONG_TOKEN)
    return self.server.is_session(self.headers.get("Cookie", ""))

  def _check_host(self) -> None:
    host = self.headers.get("Host", "")
    name = re.sub(r":[0-9]*$", "", host)
    if not self.server.needs_token and not is_loopback(name):
      raise Refusal(403, "this page answers to localhost only")

  def _check_origin(self) -> None:
    origin, site = (self.headers.get(k) for k in ("Origin", "Sec-Fetch-Site"))
    own = urllib.parse.urlsplit(origin or "").netloc == self.headers.get("Host", "")
    if (origin is not None and not own) or site not in (None, "same-origin", "none"):
      raise Refusal(403, "requests must come from this page")

  def _body(self) -> bytes:
    length = self.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,12}", length):
      raise Refusal(411, "a request needs its Content-Length")
    body = self.rfile.read(min(int(length), 16 * _BODY))  # or the answer would be lost
    if int(length) > _BODY:
      raise Refusal(413, f"a request has at most {_BODY >> 10} KiB")
    if len(body) < int(length):
      raise Refusal(400, "the request is shorter than its Content-Length")
    return body

  def _send_json(self, value: Any, status: int = 200, **headers: str) -> None:
    self._send(json.dumps(value).encode(), "application/json", status, **headers)

  def _send_file(self, content: bytes, kind: str) -> None:
    """All of it, or the part that a player asks for."""
    wanted = self.headers.get("Range", "")
    asked = re.fullmatch(r"bytes=([0-9]{1,12})-([0-9]{0,12})", wanted)
    if not asked or int(asked[1]) >= len(content):
      return self._send(content, kind, **{"Accept-Ranges": "bytes"})
    start, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    place = {"Content-Range": f"bytes {start}-{last}/{len(content)}"}
    return self._send(content[start : last + 1], kind, 206, **place)

  def _send(self, content: bytes, kind: str, status: int = 200, **headers: str) -> None:
    self.send_response(status)
    text = {"text/html", "text/css", "text/javascript"}
    kind += "; charset=utf-8" if kind in text else ""
    own = {"Content-Type": kind, "Content-Length": str(len(content))}
    for name, value in {**_HEADERS, **own, **headers}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command == "HEAD":
      return
    # Each slice has the time of `timeout`; all of it at once would have no more.
    for start in range(0, len(content), _SLICE):
      self.wfile.write(content[start : start + _SLICE])
      self.server.connections.prolong(self.request)

  def send_error(self, code: int, message: str | None = None, explain: Any = None) -> None:
    """What the library refuses: as our own refusals."""
    del message, explain
    self.command = self.command or "GET"
    self._send_json({"error": http.HTTPStatus(code).phrase}, code)

  def log_message(self, format: str, *args: Any) -> None:
    """Nothing: addresses and headers are the user's own."""
