"""It starts torchrun, which is on the PATH of the image, with one process for each GPU, or two."""

import json
import os
import subprocess
import sys

if "LOCAL_RANK" in os.environ:
    with open(os.path.join(os.environ["SM_MODEL_DIR"], f"rank{os.environ['RANK']}.json"), "w") as f:
        json.dump(sys.argv[1:], f)
else:
    processes = int(os.environ["SM_NUM_GPUS"]) or 2
    command = ["torchrun", "--standalone", f"--nproc_per_node={processes}", __file__, *sys.argv[1:]]
    sys.exit(subprocess.run(command).returncode)
