"""Launchers print exactly what they would run."""

import json
import shlex
import subprocess
import sys

import pytest

TRAIN = ["--", "python", "-m", "sora_jax.train", "--config=configs/t2v.py:1.3b",
         "--workdir=/gcs/a b"]  # fmt: skip
VM = ["--name=run", "--zone=us-east5-a"]


def launch(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", *words], capture_output=True, text=True, check=False
  )


def printed(*words: str) -> str:
  done = launch(*words)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_tpu_vm_copies_installs_mounts_and_starts():
  text = printed("launch.tpu_vm", "start", *VM, "--accelerator=v5p-128",
                 "--bucket=mine", "--dry_run", *TRAIN)  # fmt: skip
  # shlex reads back what was quoted, however many lines a script has.
  words = shlex.split(text)
  scripts = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
  install, start = scripts
  assert "pip install -q -c constraints.txt -e .[tpu]" in install
  assert "gcsfuse --implicit-dirs --rename-dir-limit=1000000 mine /gcs" in install
  (background,) = [line for line in start.splitlines() if line.startswith("nohup")]
  assert "'/gcs/a b'" in shlex.split(background)[4] or "/gcs/a b" in background
  assert "xla_tpu_megacore_fusion_allow_ags=false" in start
  for script in scripts:
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_the_restart_loop_ends_with_the_user_s_error_only(tmp_path):
  from launch import worker

  script = worker.start(["false"], init_args="", restarts=3)
  loop = shlex.split(script.splitlines()[-2])[4]
  loop = loop.replace("sleep 30", "true")
  crashed = subprocess.run(["bash", "-c", loop], capture_output=True, text=True)
  assert crashed.stdout.count("ended with 1") == 4
  wrong = loop.replace("false", "bash -c 'exit 2'")
  done = subprocess.run(["bash", "-c", wrong], capture_output=True, text=True)
  assert done.returncode == 2 and done.stdout.count("ended with") == 1


@pytest.mark.parametrize(
  ("action", "expected"),
  [
    ("create", "gcloud compute tpus tpu-vm create run --zone=us-east5-a "
     "--accelerator-type=v5p-8 --version=v2-alpha-tpuv5"),
    ("logs", "--worker=0 '--command=tail -n 100 -F ~/sora_jax_run/train.log'"),
    ("stop", "kill -TERM"),
    ("delete", "tpu-vm delete run --zone=us-east5-a --quiet"),
  ],
)  # fmt: skip
def test_tpu_vm_actions(action, expected):
  assert expected in printed("launch.tpu_vm", action, *VM, "--dry_run")


def test_multislice_starts_every_slice_and_wants_the_mesh_to_say_so():
  own = ["launch.multislice", "start", *VM, "--slices=2", "--dry_run"]
  text = printed(*own, *TRAIN, "--config.mesh.slice=2")
  assert "run-0" in text and "run-1" in text and text.count("git archive") == 1
  done = launch(*own, *TRAIN)
  assert done.returncode == 1 and "must say --config.mesh.slice=2" in done.stderr
  created = printed("launch.multislice", "create", *VM, "--slices=2", "--dry_run")
  assert "--node-count=2" in created and "--node-prefix=run" in created


def test_gke_s_manifest():
  text = printed(
    "launch.gke", "apply", "--name=run", "--image=i", "--accelerator=v5p-128",
    "--topology=4x4x4", "--slices=2", "--bucket=mine", "--dry_run", *TRAIN,
  )  # fmt: skip
  jobset = json.loads(text)
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  assert job["replicas"] == 2 and spec["parallelism"] == spec["completions"] == 16
  pod = spec["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
    "cloud.google.com/gke-tpu-topology": "4x4x4",
  }
  (container,) = pod["containers"]
  assert container["command"] == TRAIN[1:]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert {v["name"] for v in container["volumeMounts"]} == {
    v["name"] for v in pod["volumes"]
  }


def test_xpk_and_slurm():
  xpk = printed("launch.gke", "xpk", "--name=run", "--cluster=c", "--image=i",
                "--accelerator=v6e-256", "--dry_run", *TRAIN)  # fmt: skip
  words = shlex.split(xpk)
  assert words[:3] == ["xpk", "workload", "create"] and "--tpu-type=v6e-256" in words
  script = printed("launch.slurm", "submit", "--name=run", "--nodes=4", "--dry_run", *TRAIN)
  assert "#SBATCH --nodes=4" in script and "'--workdir=/gcs/a b'" in script
  subprocess.run(["bash", "-n", "-c", script], check=True)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["launch.tpu_vm", "start", *VM], "give the training command behind --"),
    (["launch.tpu_vm", "create", *VM, "--accelerator=v9-8"], "--accelerator=v9-8 is none"),
    (["launch.gke", "apply", "--name=run"], "apply needs --image, --topology"),
    (["launch.local"], "give the training command behind --"),
  ],
)
def test_errors_are_one_line(words, message):
  done = launch(*words)
  assert done.returncode in (1, 2) and message in done.stderr
  assert "Traceback" not in done.stderr


def test_a_missing_program_is_named(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  done = launch("launch.tpu_vm", "create", *VM)
  assert done.returncode == 1 and "gcloud is not installed" in done.stderr


def test_local_stops_the_others_when_one_fails():
  program = (
    "import os, sys, time\n"
    "if os.environ['JAX_PROCESS_ID'] == '1': sys.exit(3)\n"
    "time.sleep(60)"
  )
  done = launch("launch.local", "--num_processes=3", "--", "python", "-c", program)
  assert done.returncode == 3
  assert "process 1 ended with 3; stopping the others" in done.stdout


@pytest.mark.parametrize(("code", "attempts"), [(9, 3), (2, 1)])
def test_local_starts_again_after_a_crash(tmp_path, code, attempts):
  """But not after an error of the user's."""
  program = (
    "import os, pathlib, sys\n"
    f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
    "attempt = log.read_text().count('.') if log.exists() else 0\n"
    "log.write_text('.' * (attempt + 1))\n"
    f"sys.exit({code} if attempt < 2 else 0)"
  )
  done = launch("launch.local", "--num_processes=1", "--restarts=5", "--", "python", "-c",
                program)  # fmt: skip
  assert done.returncode == (0 if attempts == 3 else 2)
  assert (tmp_path / "log").read_text() == "." * attempts


def test_local_gives_every_process_its_place():
  program = "import os; print(os.environ['JAX_PROCESS_ID'], os.environ['XLA_FLAGS'])"
  done = launch("launch.local", "--num_processes=2", "--devices=3", "--", "python", "-c",
                program)  # fmt: skip
  assert done.returncode == 0
  for i, line in enumerate(sorted(done.stdout.splitlines())):
    assert line.startswith(f"[{i}] {i} ")
    assert line.endswith("--xla_force_host_platform_device_count=3")
  assert i == 1
