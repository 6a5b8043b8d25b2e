"""Start the job `orphan`, then die without any clean-up: SOURCE FOLDER_OF_THE_LOCAL_SAGEMAKER"""

import os
import signal
import sys

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

if __name__ == "__main__":
    source, root = sys.argv[1:]
    TrainingJob(source=source, name="orphan").run(LocalSageMaker(root))
    os.kill(os.getpid(), signal.SIGKILL)
