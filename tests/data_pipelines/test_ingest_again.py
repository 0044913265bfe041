"""What a job of ingestion whose workers were killed does when it is started again."""

import pytest

from data_pipelines import isolated
from data_pipelines.jobs import ingest
from tests.data_pipelines import test_ingest

folder = test_ingest.folder


@pytest.mark.parametrize("others", ["crashed", "interrupted"])
def test_files_whose_workers_crashed_are_tried_again(
  folder, tmp_path, monkeypatch, others
):
  """The machine may have killed them; a file that takes too long will do so again."""

  def run(function, calls, **_):
    yield 0, isolated.Lost("crashed")
    yield 1, isolated.Lost("timeout")
    if others == "interrupted":
      raise KeyboardInterrupt
    yield 2, isolated.Lost("crashed")

  def start(workers):
    settings = ingest.Settings(thresholds=test_ingest.OFF)
    return ingest.ingest(folder, tmp_path / "out", settings=settings, workers=workers)

  monkeypatch.setattr(isolated, "run", run)
  with pytest.raises((ValueError, KeyboardInterrupt)):
    start(workers=1)
  reasons = {row["file"]: row["reason"] for row in start(workers=0).rows}
  assert reasons == {"a.mp4": "", "below/b.mp4": "timeout", "c.png": ""}
