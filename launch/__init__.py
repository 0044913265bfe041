"""From a laptop to a training pod: exact commands and manifests.

  local.py       several processes on this machine, over loopback
  tpu_vm.py      one TPU slice of VMs
  multislice.py  several slices, joined over the data-center network
  gke.py         a JobSet on GKE, or the same workload for XPK
  slurm.py       GPUs under SLURM
  xla_flags.py   flags of the TPU compiler per generation, with their reasons
  shell.py       commands that are printed, or run
  worker.py      the script that a worker runs: set-up, restarts, log

Imports nothing of sora_jax: it deals in strings. Every command has --dry_run, which prints
what would be run and runs nothing.
"""
