"""The processes of its hosts meet at the first of SM_HOSTS, with the rank of the current host."""

import argparse
import json
import os

import torch
import torch.distributed as dist

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default=None)
    parser.add_argument("--hosts", type=list, default=json.loads(os.environ["SM_HOSTS"]))
    parser.add_argument("--current-host", type=str, default=os.environ["SM_CURRENT_HOST"])
    args = parser.parse_args()
    os.environ["WORLD_SIZE"] = str(len(args.hosts))
    os.environ["RANK"] = str(args.hosts.index(args.current_host))
    dist.init_process_group(args.backend)
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    if dist.get_rank() == 0:
        with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
            json.dump([dist.get_world_size(), total.item()], f)
