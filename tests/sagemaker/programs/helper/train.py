"""It imports a module next to it, which reads the arguments when it is imported."""

import json
import os

from options import args

with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
    json.dump(vars(args), f)
