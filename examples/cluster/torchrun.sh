#!/usr/bin/env bash
# One machine with four GPUs. On several machines run it on each, with --nodes and torchrun's
# --nnodes set to their number and --rdzv-endpoint to one of them.
set -euo pipefail

torchrun --nnodes 1 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint localhost:0 \
    -m equipoise train pgd_at_cifar10_compact --data /shared/cifar10 --out /shared/runs/pgd_at \
    --nodes 1 --devices 4 --loop.batch-size 512 --loop.sync-batch-norm --resume
