"""A server with a stand-in for the generator, and what a client says to it."""

import http.client
import json
import threading

import numpy as np
import pytest

from sora_jax.serving import server, studio


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
    headers = {"Content-Type": "application/json", **dict(more)}
    status, headers, content = self.ask("POST", "/generate", json.dumps(body), **headers)
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
