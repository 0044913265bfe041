"""Training on GPUs under SLURM: a batch script, submitted by sbatch.

  python -m launch.slurm submit --name=run --nodes=4 --gpus_per_node=8 --time=48:00:00 \\
      -- python -m sora_jax.train --config=configs/t2v.py:1.3b --workdir=/shared/run \\
      --config.data.path=/shared/latents
  python -m launch.slurm logs|stop --name=run

One process a node; JAX finds the others through SLURM. A job that is preempted, or ends
with an error that is not the user's (code 2), is queued again, and goes on from its
newest checkpoint.
"""

import pathlib
import shlex
import tempfile

from launch import shell

# Reasons: collectives beside matmuls; and memory of the compiler's own to plan with.
_XLA_FLAGS = "--xla_gpu_enable_latency_hiding_scheduler=true"
_MEMORY = "0.92"


def script(options, command: shell.Command) -> str:
  """The batch script."""
  lines = [
    "#!/bin/bash",
    f"#SBATCH --job-name={options.name}",
    f"#SBATCH --nodes={options.nodes}",
    "#SBATCH --ntasks-per-node=1",
    f"#SBATCH --gpus-per-node={options.gpus_per_node}",
    f"#SBATCH --time={options.time}",
    f"#SBATCH --output={options.name}.log",
    "#SBATCH --open-mode=append",
    "#SBATCH --requeue",
    *([f"#SBATCH --partition={options.partition}"] if options.partition else []),
    "",
    f"export XLA_FLAGS={shlex.quote(_XLA_FLAGS)}",
    f"export XLA_PYTHON_CLIENT_MEM_FRACTION={_MEMORY}",
    *shell.exports(),
    f"srun --kill-on-bad-exit=1 {shlex.join(command)}",
    "code=$?",
    f"if [ $code -ne 0 ] && [ $code -ne {shell.USER_ERROR} ] && "
    f"[ ${{SLURM_RESTART_COUNT:-0}} -lt {options.restarts} ]; then "
    "scontrol requeue $SLURM_JOB_ID; fi",
    "exit $code",
  ]
  return "\n".join(lines) + "\n"


def main() -> None:
  made = shell.parser(__doc__)
  made.add_argument("action", choices=["submit", "logs", "stop"])
  made.add_argument("--name", required=True)
  made.add_argument("--nodes", type=int, default=1)
  made.add_argument("--gpus_per_node", type=int, default=8)
  made.add_argument("--time", default="24:00:00", help="as sbatch takes it")
  made.add_argument("--partition")
  made.add_argument("--restarts", type=int, default=100)
  options, command = shell.parse(made)
  if options.action == "logs":
    shell.run_all([["tail", "-F", f"{options.name}.log"]], dry_run=options.dry_run)
  elif options.action == "stop":
    cancel = ["scancel", "--signal=TERM", "--full", f"--name={options.name}"]
    shell.run_all([cancel], dry_run=options.dry_run)
  else:
    text = script(options, shell.required(command))
    print(text)
    if not options.dry_run:
      with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "job.sh"
        path.write_text(text)
        shell.run_all([["sbatch", str(path)]], dry_run=False)


if __name__ == "__main__":
  main()
