#!/bin/bash
# The entry is a script: it prepares, and starts Python with the job's arguments and variables.
set -euo pipefail
mkdir -p cache
python - <<END
open("cache/prepared", "w").write("yes")
END
python fit.py --model-dir "$SM_MODEL_DIR" "$@"
