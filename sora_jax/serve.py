"""A web page that makes videos from prompts with a trained run.

  python -m sora_jax.serve --workdir=W
  python -m sora_jax.serve --workdir=W --host=0.0.0.0 --token_file=FILE

Then open http://localhost:8000. Requests wait in a line and are made one at a time;
results lie in --out and are there again when the server is. The page makes videos from
text only: there are no uploads.

By default only this machine can reach it. For other machines a token is needed, which the
page asks for; programs send it as `Authorization: Bearer TOKEN`. The server speaks plain
HTTP: where the network is not yours, put it behind a proxy with TLS, or reach it through
`ssh -L 8000:localhost:8000`. Prefer --token_file to --token, which other users of the
machine see in its list of processes. The token is in no log and no file of ours.
"""

import pathlib
import threading

from absl import flags

from sora_jax import cli
from sora_jax.diffusion import samplers
from sora_jax.generation import generator
from sora_jax.serving import server, studio

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a text-to-video run.")
_OUT = flags.DEFINE_string("out", None, "Folder for results; WORKDIR/served if unset.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen at.")
_PORT = flags.DEFINE_integer("port", 8000, "0 takes a free one.", 0, 65535)
_TOKEN = flags.DEFINE_string("token", "", "That users must know; see --token_file.")
_TOKEN_FILE = flags.DEFINE_string("token_file", None, "File whose first line is the token.")
_SIZE = flags.DEFINE_string("size", "32x32", "HEIGHTxWIDTH that the page starts with.")
_FRAMES = flags.DEFINE_integer("frames", 9, "That the page starts with.", 1)
_STEPS = flags.DEFINE_integer("steps", 20, "That the page starts with.", 1)
_GUIDANCE = flags.DEFINE_float("guidance_scale", 3.0, "That the page starts with.", 0.0)
_FPS = flags.DEFINE_float("fps", 8.0, "Of the videos.", 0.1, 1000)
_SAMPLER = flags.DEFINE_enum("sampler", "euler", sorted(samplers.SAMPLERS), "Solver.")
_LIMITS = studio.Limits()
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", _LIMITS.tokens, "Of a request: its size in time and space, in patches.", 1
)
_MAX_STEPS = flags.DEFINE_integer("max_steps", _LIMITS.steps, "Of a request.", 1)
_MAX_WAITING = flags.DEFINE_integer("max_waiting", _LIMITS.waiting, "Requests in line.", 1)
_KEEP = flags.DEFINE_integer("keep", _LIMITS.kept, "Results; older ones are deleted.", 1)
_EMA = flags.DEFINE_bool("ema", True, "Use the moving average of the parameters.")
_CODEC = flags.DEFINE_string("codec", None, "Workdir of the codec, if it has moved.")
_TEXT_ENCODER = flags.DEFINE_string(
  "text_encoder", None, "Folder of the encoder that embedded the training captions."
)


def main() -> None:
  workdir = pathlib.Path(_WORKDIR.value)
  token = _token()
  server.check(_HOST.value, _PORT.value, token)  # before the model is loaded
  model = generator.Generator(
    workdir, codec=_CODEC.value, ema=_EMA.value, text_encoder=_TEXT_ENCODER.value
  )
  desk = studio.Studio(
    model, _OUT.value or workdir / "served", fps=_FPS.value,
    sampler=samplers.SAMPLERS[_SAMPLER.value],
    limits=studio.Limits(
      tokens=_MAX_TOKENS.value, steps=_MAX_STEPS.value, waiting=_MAX_WAITING.value,
      kept=_KEEP.value,
    ),
    defaults=studio.Defaults(
      size=_SIZE.value, frames=_FRAMES.value, steps=_STEPS.value, guidance=_GUIDANCE.value
    ),
  )  # fmt: skip
  title = f"{workdir.absolute().name}, step {model.step}"
  listening = server.Server(
    desk, host=_HOST.value, port=_PORT.value, token=token, title=title
  )
  threading.Thread(target=listening.serve_forever, daemon=True).start()
  host = "localhost" if server.is_loopback(_HOST.value) else _HOST.value
  print(f"http://{host}:{listening.server_port} makes videos of {title}", flush=True)
  desk.run()


def _token() -> str:
  if not _TOKEN_FILE.value:
    return _TOKEN.value
  if _TOKEN.value:
    raise ValueError("give --token or --token_file, not both")
  lines = pathlib.Path(_TOKEN_FILE.value).read_text(encoding="utf-8").splitlines()
  if not lines or not lines[0].strip():
    raise ValueError(f"--token_file={_TOKEN_FILE.value} is empty")
  return lines[0].strip()


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  cli.run(main)
