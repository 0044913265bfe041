"""Training on several TPU slices as one run, with gcloud's queued resources.

  python -m launch.multislice create --name=run --slices=4 --zone=us-east5-a \\
      --accelerator=v5p-128
  python -m launch.multislice start --name=run --slices=4 --zone=us-east5-a \\
      --accelerator=v5p-128 --bucket=mine -- python -m sora_jax.train \\
      --config=configs/t2v.py:14b --config.mesh.slice=4 --workdir=/gcs/run
  python -m launch.multislice logs|stop|delete --name=run --slices=4 --zone=us-east5-a

The slices are named NAME-0, NAME-1, ... Within a slice everything is as in tpu_vm.py;
between slices only gradients travel, over --config.mesh.slice.
"""

import copy

from launch import shell, tpu_vm


def commands(options, command: shell.Command) -> list[shell.Command]:
  """What the action runs: once for the group, or once per slice."""
  where = tpu_vm.place(options)
  queued = ["gcloud", "compute", "tpus", "queued-resources"]
  if options.action == "create":
    return [[
      *queued, "create", options.name, *where, f"--node-prefix={options.name}",
      f"--node-count={options.slices}", f"--accelerator-type={options.accelerator}",
      f"--runtime-version={options.image or tpu_vm.image(options.accelerator)}",
      *(["--spot"] if options.spot else []),
    ]]  # fmt: skip
  if options.action == "delete":
    return [[*queued, "delete", options.name, *where, "--force", "--quiet"]]
  slices = range(options.slices) if options.action != "logs" else [0]
  if options.action == "start":
    given = [word for word in command if word.startswith("--config.mesh.slice=")]
    if given != [f"--config.mesh.slice={options.slices}"]:
      raise SystemExit(
        f"error: the command must say --config.mesh.slice={options.slices}, one for each "
        "of --slices"
      )
  found = []
  for number in slices:
    one = copy.copy(options)
    one.name = f"{options.name}-{number}"
    own = tpu_vm.commands(one, command)
    found += own if number == 0 or options.action != "start" else own[1:]
  return found


def main() -> None:
  made = tpu_vm.parser(__doc__)
  made.add_argument("--slices", type=int, required=True)
  options, command = shell.parse(made)
  shell.run_all(commands(options, command), dry_run=options.dry_run)


if __name__ == "__main__":
  main()
