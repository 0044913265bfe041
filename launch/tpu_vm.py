"""Training on one TPU slice of VMs, with gcloud.

  python -m launch.tpu_vm create --name=run --zone=us-east5-a --accelerator=v5p-128
  python -m launch.tpu_vm start --name=run --zone=us-east5-a --accelerator=v5p-128 \\
      --bucket=mine -- python -m sora_jax.train --config=configs/t2v.py:1.3b \\
      --workdir=/gcs/run --config.data.path=/gcs/latents
  python -m launch.tpu_vm logs|stop|delete --name=run --zone=us-east5-a

`start` copies this folder to every host, installs it, mounts the bucket at /gcs, and
runs the command on all of them; it is started again after a crash, up to --restarts
times. --workdir must lie on /gcs, since all hosts write to it.
"""

from launch import shell, worker, xla_flags


def commands(options, command: shell.Command) -> list[shell.Command]:
  """What the action runs."""
  where = place(options)
  vm = ["gcloud", "compute", "tpus", "tpu-vm"]

  def everywhere(script: str) -> shell.Command:
    return [*vm, "ssh", options.name, *where, "--worker=all", f"--command={script}"]

  if options.action == "create":
    return [[
      *vm, "create", options.name, *where, f"--accelerator-type={options.accelerator}",
      f"--version={options.image or image(options.accelerator)}",
      *(["--spot"] if options.spot else []),
    ]]  # fmt: skip
  if options.action == "start":
    init_args = xla_flags.init_args(options.accelerator, options.without_flag)
    packed = ["git", "archive", "--format=tar.gz", "--output=/tmp/sora_jax.tar.gz", "HEAD"]
    unpack = f"mkdir -p ~/{worker.HOME} && tar xzf sora_jax.tar.gz -C ~/{worker.HOME}"
    return [
      packed,
      [*vm, "scp", "/tmp/sora_jax.tar.gz", f"{options.name}:", *where, "--worker=all"],
      everywhere(f"{unpack}\n{worker.setup(options.bucket)}"),
      everywhere(
        worker.start(
          shell.required(command), init_args=init_args, restarts=options.restarts
        )
      ),
    ]
  if options.action == "logs":
    return [[*vm, "ssh", options.name, *where, f"--worker={options.worker}",
             f"--command={worker.follow()}"]]  # fmt: skip
  if options.action == "stop":
    return [everywhere(worker.stop(options.grace_seconds))]
  return [[*vm, "delete", options.name, *where, "--quiet"]]


def place(options) -> list[str]:
  """Where gcloud looks."""
  project = [f"--project={options.project}"] if options.project else []
  return [f"--zone={options.zone}", *project]


def image(accelerator: str) -> str:
  """The runtime image of a generation."""
  return {
    "v5e": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e",
    "tpu7x": "v2-alpha-tpu7-ubuntu2404",
  }[xla_flags.generation(accelerator)]  # fmt: skip


def parser(doc: str):
  made = shell.parser(doc)
  made.add_argument("action", choices=["create", "start", "logs", "stop", "delete"])
  made.add_argument("--name", required=True)
  made.add_argument("--zone", required=True)
  made.add_argument("--project", help="gcloud's default otherwise")
  made.add_argument("--accelerator", default="v5p-8", help="such as v5p-128, v6e-256")
  made.add_argument("--image", help="runtime image; by the accelerator otherwise")
  made.add_argument("--spot", action="store_true", help="cheaper, and preemptible")
  made.add_argument("--bucket", help="mounted at /gcs on every host")
  made.add_argument("--restarts", type=int, default=100, help="after crashes")
  made.add_argument("--grace_seconds", type=int, default=120, help="of stop")
  made.add_argument("--worker", default="0", help="whose log; or all")
  made.add_argument("--without_flag", action="append", default=[], help="of xla_flags.py")
  return made


def main() -> None:
  options, command = shell.parse(parser(__doc__))
  shell.run_all(commands(options, command), dry_run=options.dry_run)


if __name__ == "__main__":
  main()
