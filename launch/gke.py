"""Training on GKE: a JobSet manifest, or the same workload for XPK.

  python -m launch.gke apply --name=run --image=IMAGE --accelerator=v5p-128 \\
      --topology=4x4x4 --bucket=mine -- python -m sora_jax.train \\
      --config=configs/t2v.py:1.3b --workdir=/gcs/run --config.data.path=/gcs/latents
  python -m launch.gke logs|delete --name=run
  python -m launch.gke xpk --name=run --cluster=C --image=IMAGE --accelerator=v5p-128 \\
      -- python -m sora_jax.train ...

`apply --dry_run` prints the manifest, to be kept or changed. One job of the set is one
slice; a slice that fails restarts all of them, up to --restarts times, and the run goes
on from its newest checkpoint. The bucket is mounted at /gcs by the Cloud Storage driver.
"""

import json
import pathlib
import shlex
import tempfile

from launch import shell, xla_flags

# Generation -> (the node selector's value, chips of a host).
_NODES = {
  "v5e": ("tpu-v5-lite-podslice", 4), "v5p": ("tpu-v5p-slice", 4),
  "v6e": ("tpu-v6e-slice", 4), "tpu7x": ("tpu7x", 4),
}  # fmt: skip
# Accelerator names count cores where a chip has two.
_CORES_PER_CHIP = {"v5e": 1, "v5p": 2, "v6e": 1, "tpu7x": 2}


def hosts(accelerator: str) -> int:
  """Machines of a slice: "v5p-128" is 64 chips on 16 of them."""
  kind = xla_flags.generation(accelerator)
  chips = int(accelerator.split("-")[1]) // _CORES_PER_CHIP[kind]
  return max(1, chips // _NODES[kind][1])


def pod(options, command: shell.Command) -> dict:
  """One host of a slice."""
  selector, chips = _NODES[xla_flags.generation(options.accelerator)]
  init_args = xla_flags.init_args(options.accelerator, options.without_flag)
  made = {
    "metadata": {},
    "spec": {
      "restartPolicy": "Never",
      "serviceAccountName": options.service_account,
      "terminationGracePeriodSeconds": options.grace_seconds,
      "nodeSelector": {
        "cloud.google.com/gke-tpu-accelerator": selector,
        "cloud.google.com/gke-tpu-topology": options.topology,
      },
      "containers": [{
        "name": "train",
        "image": options.image,
        "command": command,
        "env": [
          {"name": "LIBTPU_INIT_ARGS", "value": init_args},
          *({"name": name, "value": value} for name, value in shell.PREEMPTED.items()),
        ],
        "resources": {"limits": {"google.com/tpu": chips}},
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "volumeMounts": [],
      }],
      "volumes": [],
    },
  }  # fmt: skip
  if options.bucket:
    made["metadata"]["annotations"] = {"gke-gcsfuse/volumes": "true"}
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "gcs", "mountPath": "/gcs"}]
    # Checkpoints are folders that get their name when they are complete.
    mount = "implicit-dirs,rename-dir-limit=1000000"
    attributes = {"bucketName": options.bucket, "mountOptions": mount}
    driver = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    made["spec"]["volumes"] = [{"name": "gcs", "csi": driver}]
  return made


def manifest(options, command: shell.Command) -> dict:
  """The JobSet, as Kubernetes takes it (jobset.x-k8s.io/v1alpha2)."""
  num_hosts = hosts(options.accelerator)
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": options.name,
      "annotations": {
        # A job owns its slice: no two on one node pool.
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
      },
    },
    "spec": {
      "failurePolicy": {
        "maxRestarts": options.restarts,
        # Exit code 2 is the user's: the same again would fail the same.
        "rules": [{
          "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"],
        }],
      },
      "replicatedJobs": [{
        "name": "slice",
        "replicas": options.slices,
        "template": {"spec": {
          "parallelism": num_hosts, "completions": num_hosts,
          "completionMode": "Indexed", "backoffLimit": 0,
          "podFailurePolicy": {"rules": [{
            "action": "FailJob",
            "onExitCodes": {
              "containerName": "train", "operator": "In", "values": [shell.USER_ERROR],
            },
          }]},
          "template": pod(options, command),
        }},
      }],
    },
  }  # fmt: skip


def commands(options, command: shell.Command) -> list[shell.Command]:
  """What the action runs, `apply` aside."""
  selected = f"--selector=jobset.sigs.k8s.io/jobset-name={options.name}"
  if options.action == "logs":
    return [["kubectl", "logs", "--follow", "--prefix", "--max-log-requests=100", selected]]
  if options.action == "delete":
    return [["kubectl", "delete", "jobset", options.name]]
  init_args = xla_flags.init_args(options.accelerator, options.without_flag)
  return [[
    "xpk", "workload", "create", f"--workload={options.name}",
    f"--cluster={options.cluster}", f"--tpu-type={options.accelerator}",
    f"--num-slices={options.slices}", f"--docker-image={options.image}",
    f"--max-restarts={options.restarts}",
    f"--env=LIBTPU_INIT_ARGS={init_args}",
    f"--command={shlex.join(shell.required(command))}",
  ]]  # fmt: skip


def main() -> None:
  made = shell.parser(__doc__)
  made.add_argument("action", choices=["apply", "logs", "delete", "xpk"])
  made.add_argument("--name", required=True)
  made.add_argument("--image", help="a container with the project installed")
  made.add_argument("--accelerator", default="v5p-8", help="such as v5p-128, v6e-256")
  made.add_argument("--topology", help="of a slice, such as 4x4x4")
  made.add_argument("--slices", type=int, default=1)
  made.add_argument("--bucket", help="mounted at /gcs in every pod")
  made.add_argument("--service_account", default="default")
  made.add_argument("--cluster", help="for xpk")
  made.add_argument("--restarts", type=int, default=100)
  made.add_argument("--grace_seconds", type=int, default=120, help="when stopped")
  made.add_argument("--without_flag", action="append", default=[], help="of xla_flags.py")
  options, command = shell.parse(made)
  needed = {"apply": ("image", "topology"), "xpk": ("image", "cluster")}
  missing = [n for n in needed.get(options.action, ()) if not getattr(options, n)]
  if missing:
    made.error(f"{options.action} needs " + ", ".join(f"--{name}" for name in missing))
  if options.action != "apply":
    shell.run_all(commands(options, command), dry_run=options.dry_run)
    return
  # JSON is YAML, and nothing in it can be indented wrongly.
  text = json.dumps(manifest(options, shell.required(command)), indent=2)
  print(text)
  if not options.dry_run:
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "jobset.json"
      path.write_text(text)
      shell.run_all([["kubectl", "apply", "-f", str(path)]], dry_run=False)


if __name__ == "__main__":
  main()
