"""What AWS's software makes of the hyperparameters of requests, as `[argv, SM_HPS]` for each, or the error: v2|v3
FOLDER-OF-PACKAGES REQUESTS OUT
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

software, packages, requests, out = sys.argv[1:]
os.environ["TRAINING_JOB_NAME"] = "spell"
folder = Path(tempfile.mkdtemp())


def toolkit(request):
    """SDK v2: the sagemaker-training toolkit, which reads the file and starts the program itself"""
    from sagemaker_training import environment, mapping

    (folder / "input" / "config" / "hyperparameters.json").write_text(json.dumps(request))
    values = {k: v for k, v in environment.read_hyperparameters().items() if not k.startswith("sagemaker_")}
    return mapping.to_cmd_args(values), values


def drivers(request):
    """SDK v3: a shell reads the variables from a file that `environment.py` has written, then a driver starts the
    program
    """
    from common.utils import hyperparameters_to_cli_args
    from scripts.environment import set_env

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        set_env(
            resource_config=resources,
            input_data_config={},
            hyperparameters_config=request,
            output_file=str(folder / "env"),
        )
    shell = subprocess.run(
        [
            "bash",
            "-c",
            'set -e; source "$1"; exec "$2" -c "import os; print(os.environ[\'SM_HPS\'])"',
            "bash",
            folder / "env",
            sys.executable,
        ],
        capture_output=True,
        text=True,
    )
    if shell.returncode:
        raise RuntimeError(shell.stderr)
    return hyperparameters_to_cli_args(request), json.loads(shell.stdout)


if software == "v2":
    (folder / "input" / "config").mkdir(parents=True)
    os.environ["SAGEMAKER_BASE_DIR"] = str(folder)
else:
    sys.path.insert(0, str(Path(packages) / "sagemaker" / "train" / "container_drivers"))
    resources = dict(
        current_host="algo-1",
        current_instance_type="ml.m5.large",
        current_group_name="homogeneousCluster",
        hosts=["algo-1"],
        network_interface_name="eth0",
        instance_groups=[dict(instance_group_name="homogeneousCluster", instance_type="ml.m5.large", hosts=["algo-1"])],
    )
found = []
for request in json.loads(Path(requests).read_text()):
    try:
        found.append(toolkit(request) if software == "v2" else drivers(request))
    except Exception as e:
        found.append(f"{type(e).__name__}: {e}")
Path(out).write_text(json.dumps(found))
