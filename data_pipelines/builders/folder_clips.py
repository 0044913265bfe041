"""TFDS builder: clips of a folder of the user's videos and photos.

Used by: data_pipelines/jobs/ingest.py.
"""

from typing import Any

from data_pipelines import datasets, schema


class FolderClips(datasets.Generated):
  """Clips cut from files."""

  DESCRIPTION = "Captioned clips of a folder of videos and photos."

  @staticmethod
  def features() -> dict[str, Any]:
    return schema.clip_features()
