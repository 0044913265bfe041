"""What a manifest cannot say costs its own line only."""

from data_pipelines import captioned_files


def test_a_huge_field_of_a_csv_is_a_bad_line(tmp_path):
  for name in "abc":
    (tmp_path / f"{name}.mp4").write_bytes(b"video")
  for huge in ("x" * 140_000, '"' + "x" * 140_000 + '"'):
    text = f"file,caption\na.mp4,first\nb.mp4,{huge}\nc.mp4,last\n"
    (tmp_path / "manifest.csv").write_text(text)
    found = {file.name: file for file in captioned_files.find(tmp_path)}
    assert found["a.mp4"].caption == "first" and found["c.mp4"].caption == "last"
    assert found["b.mp4"].problem == "no_caption"
    bad = found["manifest.csv:3"]
    assert bad.problem == "bad_line" and "131072" in bad.detail
  unended = "file,caption\n\"a.mp4," + "x\n" * 100_000 + "c.mp4,last\n"
  (tmp_path / "manifest.csv").write_text(unended)
  found = {file.name: file for file in captioned_files.find(tmp_path)}
  assert found["c.mp4"].caption == "last", "after a quote that nothing ends"
