"""The web page over HTTP: what it refuses, and what nobody is told."""

import http.client
import json
import re
import socket
import time

import pytest

from sora_jax.serving import assets, connections, page, server

TOKEN = "correct-horse-battery"
JSON = {"Content-Type": "application/json"}


def test_bad_http_is_told(site, monkeypatch):
  def post(body, path="/generate", **headers):
    status, _, content = site.ask("POST", path, body, **{**JSON, **headers})
    return status, json.loads(content)["error"]

  assert post("{")[0] == 400 and post("[]")[0] == 400 and post("[" * 60_000)[0] == 400
  assert post(b"\xff\xfe")[0] == 400
  assert post("x" * 70_000) == (413, "a request has at most 64 KiB")
  assert post("{}", Content_Type="text/plain")[0] == 415
  assert post("{}", path="/elsewhere")[0] == 404
  assert post("{}", Content_Length="many")[0] == 411
  for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
    assert site.ask(method, "/")[0] == 501
  assert site.ask("GET", "/" + "a" * 70_000)[0] == 414
  monkeypatch.setattr(site.studio, "state", lambda: 1 / 0)
  status, _, content = site.ask("GET", "/state")
  assert status == 500 and b"Zero" not in content


@pytest.mark.parametrize(
  "path",
  ["/results/../0.json", "/results/..%2f0.json", "/../../etc/passwd",
   "/results//etc/passwd", "//etc/passwd", "/results/", "/results/0.json", "/results/\x80",
   "/results/%00"],
)  # fmt: skip
def test_only_results_can_be_read(site, path, tmp_path):
  site.make(prompt="a", frames=1)
  site.studio.run_one()
  (tmp_path / "0.json").write_text("secret")
  (tmp_path / "out" / "0.json").write_text("secret")
  with socket.create_connection(("127.0.0.1", site.port), 5) as raw:
    raw.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    answer = b"".join(iter(lambda: raw.recv(65536), b""))
  assert b" 404 " in answer.split(b"\r\n")[0] and b"secret" not in answer


def test_other_pages_cannot_ask(site):
  good = {"Host": f"localhost:{site.port}"}
  own = {**good, "Origin": f"http://localhost:{site.port}", "Sec-Fetch-Site": "same-origin"}
  assert site.make(own, prompt="a")[0] == 202
  for bad in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
              {"Origin": "http://localhost:1"}, {"Sec-Fetch-Site": "cross-site"},
              {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
    assert site.make({**good, **bad}, prompt="a")[0] in (400, 403), bad
  # A name that was made to point here.
  for host in ("evil.example", "evil.example:80", "localhost.evil.example", "", "[::1"):
    assert site.ask("GET", "/state", Host=host)[0] == 403, host
  for host in ("127.0.0.1:9", "localhost", "[::1]:8000", "127.5.5.5"):
    assert site.ask("GET", "/state", Host=host)[0] == 200, host


def test_a_token_is_asked_for(start, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(server, "_WRONG_TOKEN", 0.01)
  site = start(token=TOKEN)
  site.studio.submit({"prompt": "my secret plan", "frames": 1})
  site.studio.run_one()
  file = site.studio.state()[0]["file"]
  for path in ("/", "/state", f"/results/{file}", "/nothing"):
    status, _, content = site.ask("GET", path)
    assert status == 401 and b"secret plan" not in content, path
  assert site.make(prompt="a")[0] == 401
  bearer = {"Authorization": f"Bearer {TOKEN}"}
  assert site.ask("GET", "/state", **bearer)[0] == 200
  assert site.make(bearer, prompt="a")[0] == 202
  for wrong in ("Bearer ", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \xe9"):
    assert site.ask("GET", "/state", Authorization=wrong)[0] == 401
  assert site.ask("GET", f"/state?token={TOKEN}")[0] == 401, "proxies log addresses"

  form = {"Content-Type": "application/x-www-form-urlencoded"}
  assert site.ask("POST", "/login", "token=wrong", **form)[0] == 401
  assert site.ask("POST", "/login", "token=" + TOKEN, Origin="http://evil.example",
                  **form)[0] == 403  # fmt: skip
  # What a browser sends depends on our Referrer-Policy: with "no-referrer" it is null.
  assert site.ask("GET", "/")[1]["Referrer-Policy"] == "same-origin"
  assert site.ask("POST", "/login", "token=" + TOKEN, Origin="null", **form)[0] == 403
  own = {**form, "Origin": f"http://127.0.0.1:{site.port}", "Sec-Fetch-Site": "same-origin"}
  status, headers, _ = site.ask("POST", "/login", "token=" + TOKEN, **own)
  cookie = headers["Set-Cookie"]
  assert status == 303 and headers["Location"] == "/" and TOKEN not in cookie
  assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
  assert site.ask("GET", "/state", Cookie=cookie.partition(";")[0])[0] == 200
  for wrong in ("", "sora_jax=x", cookie.partition("=")[0] + "=x", "\xff=;;"):
    assert site.ask("GET", "/state", Cookie=wrong)[0] == 401
  told = "".join(capsys.readouterr())
  written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
  assert TOKEN not in told and TOKEN.encode() not in written


def test_other_machines_need_a_token(site):
  desk = site.studio
  for host in ("0.0.0.0", "", "::", "192.168.0.1", "example.com"):
    with pytest.raises(ValueError, match="give --token_file"):
      server.Server(desk, host=host, port=0)
    with pytest.raises(ValueError, match="at least 16"):
      server.Server(desk, host=host, port=0, token="short")
  taken = server.Server(desk, host="0.0.0.0", port=0, token=TOKEN)
  with pytest.raises(ValueError, match=r"cannot listen at .* in use"):
    server.Server(desk, host="127.0.0.1", port=taken.server_port)
  taken.server_close()


def test_slow_clients_are_let_go(start, monkeypatch):
  monkeypatch.setattr(server.Handler, "timeout", 0.3)
  site = start()
  began = time.monotonic()
  with socket.create_connection(("127.0.0.1", site.port), 5) as silent:
    head = b"POST /generate HTTP/1.0\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    silent.sendall(head)
    assert silent.recv(100) == b""
  assert time.monotonic() - began < 3
  monkeypatch.setattr(connections, "_PATIENCE", 0.5)
  with socket.create_connection(("127.0.0.1", site.port), 5) as trickling:
    with pytest.raises(OSError):
      for _ in range(40):
        trickling.sendall(b"G")
        time.sleep(0.1)
    assert time.monotonic() - began < 6


def download(site, before, between):
  """How many bytes of a result arrive, where the client rests between reads."""
  with socket.socket() as raw:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    raw.connect(("127.0.0.1", site.port))
    path = f"/results/{site.jobs()[0]['file']}"
    raw.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    time.sleep(before)
    length = 0
    try:
      while part := raw.recv(1 << 16):
        length += len(part)
        time.sleep(between)
    except OSError:
      pass
    return length


def test_a_download_takes_its_time(site, tmp_path, monkeypatch):
  site.make(prompt="a", frames=1)
  site.studio.run_one()
  (file,) = (tmp_path / "out").glob("*.png")
  file.write_bytes(bytes(6 << 20))
  monkeypatch.setattr(server.Handler, "timeout", 0.3)
  monkeypatch.setattr(connections, "_PATIENCE", 0.3)
  began = time.monotonic()
  assert download(site, 0, 0.005) > 6 << 20
  assert time.monotonic() - began > 0.6, "longer than a client may be silent"
  assert download(site, 1, 0) < 2 << 20, "one that takes next to nothing is let go"


def test_our_own_disk_is_told(site, tmp_path, capsys):
  site.make(prompt="a", frames=1)
  site.studio.run_one()
  (file,) = (tmp_path / "out").glob("*.png")
  file.unlink()
  assert site.ask("GET", f"/results/{file.name}")[0] == 404
  file.mkdir()
  status, _, content = site.ask("GET", f"/results/{file.name}")
  assert status == 500 and str(tmp_path).encode() not in content
  assert "Is a directory" in capsys.readouterr().err


def test_connections_are_counted(start, monkeypatch):
  monkeypatch.setattr(connections, "_PLACES", 2)
  site = start()
  idle = [socket.create_connection(("127.0.0.1", site.port), 5) for _ in range(2)]
  time.sleep(0.3)
  with pytest.raises((OSError, http.client.HTTPException)):
    site.ask("GET", "/state")
  for one in idle:
    one.close()
  time.sleep(0.3)
  assert site.ask("GET", "/state")[0] == 200


def test_no_client_holds_all_places():
  for same, another in (
    (["10.0.0.1", "::ffff:10.0.0.1"], "10.0.0.2"),
    (["fe80::1%eth0", "fe80::2%eth0"], "fe80:0:0:1::1"),
  ):
    places = connections.Connections()
    taken = [(object(), same[i % 2]) for i in range(12)]
    assert [places.admit(*one) for one in taken] == [True] * 8 + [False] * 4
    assert places.admit(object(), another)
    places.leave(taken[0][0])
    assert places.admit(*taken[8]) and not places.admit(*taken[9])
  places = connections.Connections()
  assert [places.admit(object(), "127.0.0.1") for _ in range(33)] == [True] * 32 + [False]


def test_nothing_of_a_user_stands_in_the_html(site):
  site.make(prompt="<script>alert(1)</script>")
  _, headers, content = site.ask("GET", "/")
  assert b"alert(1)" not in content and b"a &lt;b&gt; &amp; c" in content
  assert headers["Content-Security-Policy"].startswith("default-src 'none'")
  assert "unsafe" not in headers["Content-Security-Policy"]
  for path in ("/", "/state", "/page.js", "/page.css", "/none"):
    _, headers, _ = site.ask("GET", path)
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
  assert site.ask("GET", "/state")[1]["Content-Type"] == "application/json"
  script = assets.FILES["/page.js"][0].decode()
  assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", script)
  for html in (page.main("t"), page.login(), page.login(wrong=True)):
    assert not re.search(rb"<script>|style=|onclick=|https?://", html)
