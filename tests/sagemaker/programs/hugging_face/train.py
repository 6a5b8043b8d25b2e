"""Its arguments are the fields of a dataclass, read by HfArgumentParser."""

import json
import os
from dataclasses import dataclass

from transformers import HfArgumentParser


@dataclass
class Arguments:
    epochs: int = 1
    fp16: bool = False
    output_dir: str = ""


if __name__ == "__main__":
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
        json.dump([args.epochs, args.fp16, args.output_dir], f)
