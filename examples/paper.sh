#!/usr/bin/env bash
# The paper's settings (Tables 1 and 2, one GPU): batches of 64, SGD with momentum 0.9 and weight decay 1e-4, a learning
# rate of 1e-3 that falls to 1e-4 after 70 epochs, no clipping, alpha 2, mu 0.01; three seeds, selection on validation.
#
#     bash examples/paper.sh crema_d CREMA-D          # or ave AVE, or cg_mnist MNIST: the folder of the raw download
#
# Further arguments go to examples/benchmark.py: --methods joint pmr, --fusions concat, --output_dir, ...
set -euo pipefail
dataset=$1 data_dir=$2
case $dataset in
    crema_d) epochs=130 steps_per_epoch=95 ;;  # of 6,028 clips
    ave) epochs=130 steps_per_epoch=53 ;;      # of 3,339 videos
    cg_mnist) epochs=100 steps_per_epoch=844 ;; # of 54,000 digits
    *) echo "expected crema_d, ave or cg_mnist, got $dataset" >&2; exit 2 ;;
esac
schedule="{\"num_stable_steps\": $((70 * steps_per_epoch)), \"num_decay_steps\": 1, \"min_lr_ratio\": 0.1}"
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}  # more GPUs would mean larger batches and fewer steps
exec python "$(dirname "$0")/benchmark.py" --dataset "$dataset" --data_dir "$data_dir" \
    --methods unimodal joint dropout gblend ogm_ge pmr_without_per pmr --fusions concat sum film gated --seeds 0 1 2 \
    --num_train_epochs "$epochs" --learning_rate 1e-3 --max_grad_norm 0 --lr_scheduler_type warmup_stable_decay \
    --lr_scheduler_kwargs "$schedule" --dataloader_num_workers 4 "${@:3}"
