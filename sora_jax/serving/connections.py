"""Who is connected, and until when: no client holds all the places, or holds one for ever.

Used by: server.py.
"""

import ipaddress
import socket
import threading
import time

_PLACES = 32  # connections at once
_PLACES_EACH = 8  # of one client; not of this machine, which may be a proxy or a tunnel
_PATIENCE = 60.0  # seconds that a connection may last in which nothing is received


class Connections:
  """Those that are open, each with its client and the time at which it ends."""

  def __init__(self) -> None:
    self._open: dict[socket.socket, tuple[str, float]] = {}
    self._lock = threading.Lock()

  def admit(self, request: socket.socket, address: str) -> bool:
    """Takes a place for it; False where none is left."""
    client = _client(address)
    with self._lock:
      own = sum(client == other for other, _ in self._open.values())
      if len(self._open) >= _PLACES or (client and own >= _PLACES_EACH):
        return False
      self._open[request] = client, time.monotonic() + _PATIENCE
      return True

  def prolong(self, request: socket.socket) -> None:
    """Its client just took a part of the answer."""
    with self._lock:
      if request in self._open:
        self._open[request] = self._open[request][0], time.monotonic() + _PATIENCE

  def leave(self, request: socket.socket) -> None:
    with self._lock:
      self._open.pop(request, None)

  def end_late(self) -> None:
    """Those that are past their time, whatever they trickle."""
    with self._lock:
      late = [one for one, (_, end) in self._open.items() if end < time.monotonic()]
      for request in late:
        try:
          request.shutdown(socket.SHUT_RDWR)
        except OSError:
          continue  # it has ended by itself


def _client(address: str) -> str:
  """An address, or the network that a user of IPv6 has whole; "" is this machine."""
  found = ipaddress.ip_address(address.partition("%")[0])
  found = getattr(found, "ipv4_mapped", None) or found
  if found.is_loopback:
    return ""
  return str(ipaddress.ip_network((found, 32 if found.version == 4 else 64), strict=False))
