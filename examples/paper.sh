#!/usr/bin/env bash
# The paper's settings (Tables 1 and 2), as its authors ran them: https://github.com/fanyunfeng-bit/Modal-Imbalance-PMR,
# bash.sh and main_Prototype_grad.py. Batches of 64, SGD with momentum 0.9 and weight decay 1e-4, a learning rate of 1e-3
# that falls to 1e-4 after 70 epochs, no gradient clipping, weights drawn by their `weight_init`, hard weights of PCE up
# to an epoch, and prototypes without momentum. On CREMA-D and AVE, training pictures are cropped at random and flipped,
# and random frames are taken. Three seeds. Unlike theirs, prototypes come from training data alone, epochs are selected
# on validation, and pixels are scaled by a mean and deviation of 0.5, not by those of ImageNet.
#
#     bash examples/paper.sh crema_d CREMA-D          # or ave AVE, or cg_mnist MNIST: the folder of the raw download
#     bash examples/paper.sh cg_mnist MNIST --tenth   # a tenth of the epochs at ten times the rate, for a CPU
#
# Further arguments go to examples/benchmark.py: --methods joint pmr, --fusions concat, --reference_samples 500, ... Their
# alpha for FiLM on CREMA-D is 3: --fusions film --pmr_alpha 3.
set -euo pipefail
dataset=$1 data_dir=$2
shift 2
varied="--augment visual=basic --frames random"
case $dataset in
    crema_d) epochs=130 pmr_epochs=71 alpha=2 steps_per_epoch=95 ;;   # of 6,028 clips
    ave) epochs=130 pmr_epochs=71 alpha=2 steps_per_epoch=53 ;;       # of 3,339 videos
    cg_mnist) epochs=100 pmr_epochs=61 alpha=1 steps_per_epoch=844 varied="" ;; # of 54,000 digits
    *) echo "expected crema_d, ave or cg_mnist, got $dataset" >&2; exit 2 ;;
esac
rate=1e-3 stable=$((70 * steps_per_epoch))
if [ "${1:-}" = --tenth ]; then
    shift
    rate=1e-2 epochs=$((epochs / 10)) pmr_epochs=$((pmr_epochs / 10)) stable=$((stable / 10))
fi
schedule="{\"num_stable_steps\": $stable, \"num_decay_steps\": 1, \"min_lr_ratio\": 0.1}"
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}  # more GPUs would mean larger batches and fewer steps
exec python "$(dirname "$0")/benchmark.py" --dataset "$dataset" --data_dir "$data_dir" \
    --methods unimodal joint dropout gblend ogm_ge pmr_without_per pmr --fusions concat sum film gated --seeds 0 1 2 \
    --initialization kaiming --num_train_epochs "$epochs" --learning_rate "$rate" --max_grad_norm 0 \
    --lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs "$schedule" \
    --pmr_weights hard --pmr_alpha "$alpha" --pmr_epochs "$pmr_epochs" --prototype_momentum 0 \
    --dataloader_num_workers 4 $varied "$@"
