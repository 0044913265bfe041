"""Killed with SIGKILL and started again, jobs end with the same bytes."""

from tests.survival import kill_jobs


def test_ingest_and_encode(tmp_path):
  """Three kills each; `kill_jobs.py --kills=20` is the same for longer."""
  results = kill_jobs.try_all(tmp_path / "run", kills=3, videos=12)
  assert results["ingest"]["kills"] == results["encode"]["kills"] == 3
