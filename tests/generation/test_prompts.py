"""What users write in a prompts file."""

from sora_jax.generation import prompts


def test_only_a_line_break_ends_a_prompt(tmp_path):
  """Some letters end a line to Python's `splitlines`, and not to an editor."""
  wanted = [f"a cat{letter}and a dog" for letter in "\u2028\u2029\x85\x0b\x0c\x1c\x1e"]
  path = tmp_path / "prompts.txt"
  path.write_bytes("\r\n".join(wanted).encode() + b'\n{"prompt": "a\xe2\x80\xa8b"}\n\n')
  assert [line["prompt"] for line in prompts.read(path)] == [*wanted, "a\u2028b"]
