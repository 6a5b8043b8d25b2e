"""Run the code of AWS's software that reads hyperparameters: spell.py v2|v3 SITE_PACKAGES REQUESTS OUT

REQUESTS is a list of hyperparameters. OUT has [argv, SM_HPS] of the user's program for each, or the text of an error.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RESOURCES = dict(
    current_host="algo-1",
    current_instance_type="ml.m5.large",
    current_group_name="homogeneousCluster",
    hosts=["algo-1"],
    network_interface_name="eth0",
    instance_groups=[dict(instance_group_name="homogeneousCluster", instance_type="ml.m5.large", hosts=["algo-1"])],
)
PRINT_SM_HPS = 'set -e; source "$1"; exec "$2" -c "import os; print(os.environ[\'SM_HPS\'])"'


def read_with_toolkit(request, folder):
    """Return what SDK v2's sagemaker-training toolkit passes on: it reads a file and starts the program itself."""
    from sagemaker_training import environment, mapping

    (folder / "input" / "config" / "hyperparameters.json").write_text(json.dumps(request))
    values = {k: v for k, v in environment.read_hyperparameters().items() if not k.startswith("sagemaker_")}
    return mapping.to_cmd_args(values), values


def read_with_drivers(request, folder):
    """Return what SDK v3's drivers pass on: a shell sources the file that environment.py writes."""
    from common.utils import hyperparameters_to_cli_args
    from scripts.environment import set_env

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        set_env(
            resource_config=RESOURCES,
            input_data_config={},
            hyperparameters_config=request,
            output_file=str(folder / "env"),
        )
    shell = subprocess.run(
        ["bash", "-c", PRINT_SM_HPS, "bash", folder / "env", sys.executable],
        capture_output=True,
        text=True,
    )
    if shell.returncode:
        raise RuntimeError(shell.stderr)
    return hyperparameters_to_cli_args(request), json.loads(shell.stdout)


def main(software, packages, requests_file, out):
    os.environ["TRAINING_JOB_NAME"] = "spell"
    folder = Path(tempfile.mkdtemp())
    if software == "v2":
        (folder / "input" / "config").mkdir(parents=True)
        os.environ["SAGEMAKER_BASE_DIR"] = str(folder)
        read = read_with_toolkit
    else:
        sys.path.insert(0, str(Path(packages) / "sagemaker" / "train" / "container_drivers"))
        read = read_with_drivers
    results = []
    for request in json.loads(Path(requests_file).read_text()):
        try:
            results.append(read(request, folder))
        except Exception as e:
            results.append(f"{type(e).__name__}: {e}")
    Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
