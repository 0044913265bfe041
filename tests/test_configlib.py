"""What a config may hold, as it is read and as it comes from a command line."""

import dataclasses

import pytest

from data_pipelines import loader, mixture
from sora_jax import configlib
from sora_jax.text import tokenizers


@pytest.mark.parametrize("depth", [600, 100_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_what_is_nested_too_deeply_is_no_config(depth, left, right):
  with pytest.raises(ValueError, match=r"config\.json is not"):
    configlib.from_json(left * depth + "0" + right * depth)


@pytest.mark.parametrize(("field", "value"), [("patch", (1, 2)), ("rows", "x")])
def test_the_parts_of_a_mixture_are_checked(field, value):
  data = loader.PackedLatents(
    path="a", rows=2, tokens_per_row=64, text_tokens_per_row=32,
    tokenizer=tokenizers.WordTokenizer(vocab_size=64, max_tokens=8),
  )  # fmt: skip
  mixed = mixture.Mixture(parts={"seen": mixture.Part(data=data)})
  assert configlib.check(mixed) is mixed
  setattr(mixed.parts["seen"].data, field, value)
  with pytest.raises(ValueError, match=rf"--config\.parts\.seen\.data\.{field} is "):
    configlib.check(mixed)


@configlib.config
class Listed:
  parts: tuple[mixture.Part, ...] = ()
  more: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict, hash=False)


def test_what_stands_in_lists_is_checked():
  part = mixture.Part(data=None)
  with pytest.raises(ValueError, match=r"--config\.parts\.0\.data is None"):
    configlib.check(Listed(parts=(part,)))
  with pytest.raises(ValueError, match=r"--config\.more is "):
    configlib.check(Listed(more={"a": (1, "x")}))
