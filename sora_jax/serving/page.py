"""What the browser shows: a form, what is being made, and what was made.

Nothing of a user stands in the HTML: the script asks for /state, and puts prompts into
the page as text.

Used by: server.py. Next: assets.py, which has the script.
"""

from sora_jax.evals.html_page import Markup, tag

# Name, label, what stands below it, attributes.
_NUMBERS = (
  ("width", "Width", "pixels", {"min": 1}),
  ("height", "Height", "pixels", {"min": 1}),
  ("frames", "Frames", "1 makes a picture", {"min": 1}),
  ("steps", "Steps", "of the sampler", {"min": 1}),
  ("guidance", "Guidance", "1 is none", {"min": 0, "step": 0.1}),
  ("seed", "Seed", "random if empty", {"min": 0}),
)


def main(title: str) -> bytes:
  """The page, before its script has filled it."""
  fields = [_number(*row) for row in _NUMBERS]
  prompt = tag(
    "label", "Prompt",
    tag("textarea", name="prompt", rows=4, required=True, autofocus=True,
        placeholder="a red circle moves left"),
  )  # fmt: skip
  make = tag("div", tag("button", "Make it", type="submit", class_="make"),
             tag("output", id="cost"), class_="send")  # fmt: skip
  form = tag(
    "form", prompt, tag("div", *fields, class_="numbers"), make,
    tag("p", id="error", class_="wrong", role="alert"), id="form", class_="panel",
  )  # fmt: skip
  empty = tag("p", "What you ask for appears here.", class_="empty")
  stage = tag("div", empty, id="stage", class_="panel", aria_live="polite")
  recent = tag(
    "section", tag("h2", "Recent"), tag("div", id="recent", class_="gallery"),
    id="shelf", hidden=True,
  )  # fmt: skip
  return _page(title, tag("div", form, stage, class_="desk"), recent)


def _number(name: str, label: str, note: str, attributes: dict) -> Markup:
  field = tag("input", type="number", name=name, id=name, **attributes)
  return tag("label", label, field, tag("small", note))


def login(*, wrong: bool = False) -> bytes:
  """The form that asks for the token, and says nothing else."""
  form = tag(
    "form",
    tag("label", "Token",
        tag("input", type="password", name="token", required=True, autofocus=True,
            autocomplete="current-password")),
    tag("small", "Whoever started this server knows it."),
    tag("div", tag("button", "Enter", type="submit", class_="make"), class_="send"),
    tag("p", "That is not the token." if wrong else "", class_="wrong", role="alert"),
    method="post", action="/login", class_="panel narrow",
  )  # fmt: skip
  return _page("", form)


def _page(title: str, *content: Markup) -> bytes:
  head = tag(
    "head",
    tag("meta", charset="utf-8"),
    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    tag("title", title or "Text to video"),
    Markup('<link rel="stylesheet" href="/page.css"><link rel="icon" href="data:,">'),
    tag("script", src="/page.js", defer=True),
  )
  header = tag("header", tag("h1", "Text to video"), tag("p", title))
  body = tag("body", tag("main", header, *content))
  return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n".encode()
