"""It has no parser, and reads each hyperparameter from its variable, or all of them as JSON."""

import json
import os

rate = float(os.environ["SM_HP_LEARNING_RATE"])
settings = json.loads(os.environ["SM_HPS"])
training = json.loads(os.environ["SM_TRAINING_ENV"])
channels = json.loads(os.environ["SM_CHANNELS"])
result = [rate, settings["layers"], settings["use_bias"], training["hyperparameters"] == settings, channels]
with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
    json.dump(result, f)
