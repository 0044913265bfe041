"""The page's style and script, the same for everyone, and nothing secret in them.

Used by: server.py.
"""

from sora_jax.evals import html_page

_STYLE = """
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem; }
header p { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
.desk { display: grid; gap: 1rem; margin-top: 1.2rem; align-items: stretch;
  grid-template-columns: minmax(300px, 5fr) minmax(0, 7fr); }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem; margin: 0; }
.narrow { max-width: 24rem; margin: 2rem 0; }
label { display: block; font-size: .85rem; font-weight: 600; }
input, textarea { display: block; width: 100%; margin-top: .25rem; font: inherit;
  font-size: 1rem; font-weight: 400; color: var(--ink); background: var(--page);
  border: 1px solid var(--line); border-radius: 8px; padding: .5rem .6rem; }
textarea { resize: vertical; min-height: 6rem; line-height: 1.4; }
input:focus, textarea:focus, button:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 1px; }
.numbers { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr));
  gap: .9rem .7rem; margin: 1rem 0; }
.send { display: flex; align-items: center; gap: .9rem; margin-top: .9rem; }
.make { background: var(--accent); border-color: var(--accent); color: #fff;
  font-weight: 600; padding: .55rem 1.4rem; border-radius: 8px; }
.make:hover { filter: brightness(1.08); }
@media (prefers-color-scheme: dark) { .make { color: #0d1117; } }
output { color: var(--soft); font-size: .85rem; }
output.wrong { color: var(--bad); }
p.wrong { margin: .8rem 0 0; font-size: .9rem; overflow-wrap: anywhere; }
p.wrong:empty { display: none; }
#stage { display: flex; flex-direction: column; justify-content: center;
  min-height: 26rem; }
#stage .empty { color: var(--soft); text-align: center; }
#stage .screen { display: flex; justify-content: center; }
#stage video, #stage img { max-width: 100%; width: auto; height: min(24rem, 60vh);
  object-fit: contain; border-radius: 8px; outline: none; }
#stage .about { margin-top: .9rem; }
.about p { margin: 0 0 .2rem; overflow-wrap: anywhere; }
.marks button { font-size: .8rem; padding: .15rem .6rem; }
.marks a { color: var(--accent); align-self: center; }
.marks { margin-top: .5rem; gap: .6rem; align-items: center; }
progress { width: 100%; height: .5rem; margin: .8rem 0 .3rem; accent-color: var(--accent); }
#shelf .gallery { grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); }
#shelf[hidden] { display: none; }
#shelf .card { display: flex; flex-direction: column; text-align: left; cursor: pointer;
  font: inherit; color: inherit; }
#shelf .card:hover { border-color: var(--accent); }
#shelf .card[aria-pressed=true] { border-color: var(--accent);
  box-shadow: 0 0 0 1px var(--accent); }
#shelf .frame { width: 100%; background: var(--page); border-radius: 6px;
  overflow: hidden; color: var(--soft); font-size: .85rem; }
#shelf .frame video, #shelf .frame img { width: 100%; height: 100%; outline: none;
  object-fit: contain; border-radius: 0; }
#shelf .card p { display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 3; overflow: hidden; }
#shelf .failed .frame { color: var(--bad); }
@media (max-width: 760px) {
  .desk { grid-template-columns: minmax(0, 1fr); }
  #stage { min-height: 14rem; }
}
"""

_SCRIPT = """
const form = document.getElementById("form");
const stage = document.getElementById("stage");
const shelf = document.getElementById("shelf");
const recent = document.getElementById("recent");
const problem = document.getElementById("error");
const cost = document.getElementById("cost");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let about = null;  // what /state said last
let chosen = null;  // id of the job on the stage
let shown = "";  // what of it is on the stage
let tiles = "";  // what is on the shelf

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

const picture = (job, more) => {
  const src = "/results/" + job.file;
  if (job.file.endsWith(".png")) return element("img", {src, alt: job.prompt});
  return element("video", {src, loop: true, muted: true, autoplay: !still,
    playsInline: true, controls: more, ariaLabel: job.prompt});
};

const seconds = (value) => (value < 10 ? value.toFixed(1) : Math.round(value)) + " s";
const settings = (job) => [
  job.frames > 1 ? job.frames + " frames" : "a picture",
  job.width + "\\u00d7" + job.height, job.steps + " steps", "guidance " + job.guidance,
  "seed " + job.seed,
].join("  \\u00b7  ");

const status = (job) => ({
  waiting: job.ahead ? `waiting, ${job.ahead} before it` : "next in line",
  running: "making it: " + seconds(job.seconds)
    + (job.expected ? ` of about ${seconds(job.expected)}` : ""),
  failed: job.error, done: "",
}[job.state]);

const again = (job) => {
  for (const name of ["prompt", "frames", "width", "height", "seed", "steps", "guidance"])
    form.elements[name].value = job[name];
  count();
  form.elements.prompt.focus();
};

const show = (job) => {
  const now = JSON.stringify([job.id, job.state, status(job)]);
  if (now === shown) return;
  shown = now;
  const reuse = element("button", {type: "button", textContent: "Use these settings"});
  reuse.addEventListener("click", () => again(job));
  const marks = element("div", {className: "marks"}, reuse);
  const text = element("div", {className: "about"}, element("p", {}, job.prompt));
  const parts = [text];
  if (job.state === "done") {
    parts.unshift(element("div", {className: "screen"}, picture(job, true)));
    text.append(element("small", {}, settings(job) + "  \\u00b7  took "
      + seconds(job.seconds)));
    marks.append(element("a", {href: "/results/" + job.file, download: job.file,
      textContent: "Download"}));
  } else {
    text.append(element("small", {}, settings(job)));
    const bar = element("progress", {max: 1});
    if (job.state === "running" && job.expected)
      bar.value = Math.min(0.98, job.seconds / job.expected);
    if (job.state !== "failed") text.append(bar);
    const kind = job.state === "failed" ? "wrong" : "note";
    text.append(element("p", {className: kind}, status(job)));
  }
  text.append(marks);
  stage.replaceChildren(...parts);
};

const tile = (job) => {
  const frame = element("div", {className: "frame"},
    job.state === "done" ? picture(job, false) : job.state);
  const card = element("button", {type: "button", className: "card " + job.state},
    frame, element("p", {}, job.prompt), element("small", {}, settings(job)));
  card.setAttribute("aria-pressed", job.id === chosen);
  card.addEventListener("click", () => { chosen = job.id; draw(); scrollTo(0, 0); });
  return card;
};

const draw = () => {
  const jobs = about.jobs;
  if (!jobs.length) return;
  show(jobs.find((job) => job.id === chosen) || jobs[0]);
  const now = JSON.stringify([chosen, jobs.map((job) => [job.id, job.state])]);
  if (now === tiles) return;
  tiles = now;
  shelf.hidden = false;
  recent.replaceChildren(...jobs.map(tile));
};

const count = () => {
  if (!about) return;
  const [gt, gh, gw] = about.grid;
  const [frames, height, width] = ["frames", "height", "width"].map(
    (name) => Math.max(1, Number(form.elements[name].value) || 1));
  const tokens = (1 + Math.floor(frames / gt)) * Math.ceil(height / gh)
    * Math.ceil(width / gw);
  const most = about.limits.tokens;
  const [used, room] = [tokens, most].map((number) => number.toLocaleString("en"));
  cost.textContent = `${used} of ${room} tokens`;
  cost.className = tokens > most ? "wrong" : "";
};

const fill = () => {
  const {defaults, limits, grid} = about;
  const [height, width] = defaults.size.split("x");
  const values = {height, width, frames: defaults.frames, steps: defaults.steps,
    guidance: defaults.guidance};
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  form.elements.prompt.maxLength = limits.prompt;
  form.elements.steps.max = limits.steps;
  form.elements.guidance.max = limits.guidance;
  Object.assign(form.elements.height, {min: grid[1], step: grid[1]});
  Object.assign(form.elements.width, {min: grid[2], step: grid[2]});
  form.elements.frames.step = grid[0];
  count();
};

const ask = async (path, options) => {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.reload();
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
};

const look = async () => {
  try {
    const first = !about;
    about = await ask("/state");
    if (first) fill();
    draw();
    if (problem.dataset.lost) { problem.textContent = ""; delete problem.dataset.lost; }
  } catch (error) {
    problem.textContent = "The server does not answer.";
    problem.dataset.lost = "yes";
  }
};

let timer;
const watch = async () => {
  clearTimeout(timer);
  if (!document.hidden) await look();
  const busy = about && about.jobs.some((job) => "ahead" in job);
  timer = setTimeout(watch, busy ? 700 : 4000);
};

const send = async (event) => {
  event.preventDefault();
  const {prompt, width, height, frames, seed, steps, guidance} = form.elements;
  const body = {prompt: prompt.value, size: `${height.value}x${width.value}`,
    frames: Number(frames.value), steps: Number(steps.value),
    guidance: Number(guidance.value)};
  if (seed.value !== "") body.seed = Number(seed.value);
  problem.textContent = "";
  try {
    const {id} = await ask("/generate", {method: "POST", body: JSON.stringify(body),
      headers: {"Content-Type": "application/json"}});
    chosen = id;
    await watch();
  } catch (error) {
    problem.textContent = error.message;
  }
};

if (form) {
  form.addEventListener("submit", send);
  form.addEventListener("input", count);
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  document.addEventListener("visibilitychange", watch);
  watch();
}
"""

# Path -> (content, type).
FILES = {
  "/page.css": ((html_page.STYLE + _STYLE).encode(), "text/css"),
  "/page.js": (_SCRIPT.encode(), "text/javascript"),
}
