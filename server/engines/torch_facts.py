"""What torch can do here, as one line of JSON: run as a program, so that nobody else imports it.

A torch that cannot be imported fails this process, and its last words are the finding.
"""

import json

import torch


def main() -> None:
    is_cuda = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "gpus": gpus if is_cuda else [],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(facts), flush=True)  # noqa: T201  its only output


if __name__ == "__main__":
    main()
