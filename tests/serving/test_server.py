"""The web page: what it makes, what it refuses, and what nobody is told."""

import http.client
import json
import re
import socket
import threading
import time

import av
import numpy as np
import pytest

from sora_jax.serving import assets, page, server, studio

TOKEN = "correct-horse-battery"
JSON = {"Content-Type": "application/json"}


class Painter:
  """Stands in for a generator: videos of one gray."""

  grid = (4, 8, 8)

  def generate(self, requests, *, sampler, guidance_scale):
    (request,) = requests
    if request.prompt.startswith("fail"):
      kinds = {"v": ValueError, "m": MemoryError, "k": KeyError}
      raise kinds[request.prompt[-1]]("why\nso")
    shape = (request.frames, request.height, request.width, 3)
    return [np.full(shape, (request.seed + sampler.num_steps) % 256, np.uint8)]


class Site:
  """A server that listens, and what a client says to it."""

  def __init__(self, folder, token="", **options):
    self.studio = studio.Studio(Painter(), folder, **options)
    self.server = server.Server(
      self.studio, host="127.0.0.1", port=0, token=token, title="a <b> & c"
    )
    self.port = self.server.server_port
    run = {"poll_interval": 0.05}
    threading.Thread(target=self.server.serve_forever, kwargs=run, daemon=True).start()

  def ask(self, method, path, body=None, **headers):
    """(status, headers, content)."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()

  def make(self, more=(), **body):
    status, headers, content = self.ask(
      "POST", "/generate", json.dumps(body), **{**JSON, **dict(more)}
    )
    return status, json.loads(content), headers

  def jobs(self):
    return json.loads(self.ask("GET", "/state")[2])["jobs"]


@pytest.fixture
def start(tmp_path):
  sites = []

  def start(**options):
    sites.append(Site(tmp_path / "out", **options))
    return sites[-1]

  yield start
  for site in sites:
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def site(start):
  return start()


def test_a_request_becomes_a_video(site, tmp_path):
  status, answer, _ = site.make(prompt="gray", size="16x24", frames=9, seed=3, steps=7)
  assert status == 202
  assert site.jobs()[0]["state"] == "waiting" and site.jobs()[0]["ahead"] == 0
  site.studio.run_one()
  (job,) = site.jobs()
  assert job["id"] == answer["id"] and job["state"] == "done" and not job["error"]
  assert (job["frames"], job["height"], job["width"], job["seed"]) == (9, 16, 24, 3)
  status, headers, content = site.ask("GET", f"/results/{job['file']}")
  assert status == 200 and headers["Content-Type"] == "video/mp4"
  (tmp_path / "a.mp4").write_bytes(content)
  with av.open(str(tmp_path / "a.mp4")) as file:
    frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
  assert len(frames) == 9 and abs(int(frames[0].mean()) - 10) <= 2
  status, headers, part = site.ask("GET", f"/results/{job['file']}", Range="bytes=5-9")
  assert status == 206 and part == content[5:10]
  assert headers["Content-Range"] == f"bytes 5-9/{len(content)}"
  status, headers, nothing = site.ask("HEAD", f"/results/{job['file']}")
  assert status == 200 and not nothing and int(headers["Content-Length"]) == len(content)


def test_pictures_defaults_and_sizes_off_the_grid(site):
  site.make(prompt="one", frames=1, size="17x30")
  site.make(prompt="two")
  first, second = site.studio.run_one(), site.studio.run_one()
  assert first.file.endswith(".png") and (first.height, first.width) == (16, 32)
  assert (second.frames, second.height, second.steps, second.guidance) == (9, 32, 20, 3.0)
  assert [job["prompt"] for job in site.jobs()] == ["two", "one"], "the newest first"


def test_results_stay_until_there_are_newer_ones(start, tmp_path):
  limits = studio.Limits(kept=2)
  site = start(limits=limits)
  for seed in range(3):
    site.make(prompt="gray", frames=1, seed=seed)
    site.studio.run_one()
  assert [job["seed"] for job in site.jobs()] == [2, 1]
  assert len(list((tmp_path / "out").iterdir())) == 4, "a picture and its settings each"
  (tmp_path / "out" / "0.json").write_text('{"id": "0", "file": "../0.png"}')
  (tmp_path / "out" / "1.json").write_text("no")
  assert start(limits=limits).jobs() == site.jobs()


def test_a_failure_costs_itself_only(site, capsys):
  for how in "vmk":
    site.make(prompt=f"fail {how}")
    site.studio.run_one()
  site.make(prompt="fine", frames=1)
  site.studio.run_one()
  told = {job["prompt"]: job["error"] for job in site.jobs()}
  assert told == {
    "fine": "", "fail v": "why", "fail k": r"the generator failed (KeyError: 'why\nso')",
    "fail m": "there is not enough memory for this: make it smaller or shorter",
  }  # fmt: skip
  assert "Traceback" not in capsys.readouterr().err


def test_programs_are_given_back(site, monkeypatch):
  cleared = []
  monkeypatch.setattr(studio, "_PROGRAMS", 2)
  monkeypatch.setattr(studio.jax, "clear_caches", lambda: cleared.append(1))
  for guidance in (1, 1, 2, 2.04, 3):
    site.make(prompt="a", frames=1, guidance=guidance)
    site.studio.run_one()
  assert len(cleared) == 1


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ({}, "no .prompt"), ({"prompt": ""}, "1 to 2,000"), ({"prompt": 5}, "must be text"),
    ({"prompt": "x" * 2001}, "1 to 2,000"), ({"prompt": "\ud800"}, "not valid Unicode"),
    ({"prompt": "a", "size": "big"}, "HEIGHTxWIDTH"),
    ({"prompt": "a", "size": 5}, "HEIGHTxWIDTH"),
    ({"prompt": "a", "size": "0x8"}, "must be positive"),
    ({"prompt": "a", "frames": 0}, "must be positive"),
    ({"prompt": "a", "frames": 2.5}, "frames must be a whole number"),
    ({"prompt": "a", "frames": 10**12}, "below 2"), ({"prompt": "a", "seed": -1}, "seed"),
    ({"prompt": "a", "seed": True}, "seed must be a whole number"),
    ({"prompt": "a", "size": "1024x1024", "frames": 81}, "this page takes 32,768"),
    ({"prompt": "a", "size": "999999999x999999999"}, "more than .* tokens"),
    ({"prompt": "a", "steps": 101}, "from 1 to 100"),
    ({"prompt": "a", "steps": "9"}, "steps must be a whole number"),
    ({"prompt": "a", "guidance": float("nan")}, "guidance must be a number from 0 to 20"),
    ({"prompt": "a", "guidance": 21}, "guidance"),
    ({"prompt": "a", "image": "x"}, "there is no field 'image'"),
  ],
)  # fmt: skip
def test_bad_requests_are_told(site, body, message):
  status, answer, _ = site.make(**body)
  assert status == 400 and re.search(message, answer["error"]), answer
  assert "\n" not in answer["error"] and not site.jobs()


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


def test_a_full_line_is_told(start):
  site = start(limits=studio.Limits(waiting=2))
  for _ in range(2):
    assert site.make(prompt="a")[0] == 202
  status, answer, headers = site.make(prompt="a")
  assert status == 503 and "2 requests wait" in answer["error"] and headers["Retry-After"]
  site.studio.run_one()
  assert site.make(prompt="a")[0] == 202


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
  status, headers, _ = site.ask("POST", "/login", "token=" + TOKEN, **form)
  cookie = headers["Set-Cookie"]
  assert status == 303 and headers["Location"] == "/" and TOKEN not in cookie
  assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
  assert site.ask("GET", "/state", Cookie=cookie.partition(";")[0])[0] == 200
  for wrong in ("", "sora_jax=x", cookie.partition("=")[0] + "=x", "\xff=;;"):
    assert site.ask("GET", "/state", Cookie=wrong)[0] == 401
  told = "".join(capsys.readouterr())
  written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
  assert TOKEN not in told and TOKEN.encode() not in written


def test_other_machines_need_a_token(tmp_path):
  desk = studio.Studio(Painter(), tmp_path)
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
  monkeypatch.setattr(server, "_PATIENCE", 0.5)
  with socket.create_connection(("127.0.0.1", site.port), 5) as trickling:
    with pytest.raises(OSError):
      for _ in range(40):
        trickling.sendall(b"G")
        time.sleep(0.1)
    assert time.monotonic() - began < 6


def test_connections_are_counted(start, monkeypatch):
  monkeypatch.setattr(server, "_CONNECTIONS", 2)
  site = start()
  idle = [socket.create_connection(("127.0.0.1", site.port), 5) for _ in range(2)]
  time.sleep(0.3)
  with pytest.raises((OSError, http.client.HTTPException)):
    site.ask("GET", "/state")
  for one in idle:
    one.close()
  time.sleep(0.3)
  assert site.ask("GET", "/state")[0] == 200


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
