#!/usr/bin/env bash
# Train on as many machines as there are, and go on with those that are left, or with more. On each machine:
#
#   bash elastic.sh --nodes 1:4 --gpus 8 --meet HOST:29400 --samples 256 sft --per_device_train_batch_size 2 \
#       --model_name_or_path MODEL --dataset_args "DATA[train:1000]" --output_dir SHARED_FOLDER ...
#
# --nodes FEWEST:MOST  machines (one number: exactly so many); default 1
# --gpus               processes per machine; default: one per GPU
# --meet               where machines find each other: a host among them, which has to stay, and a free port
# --samples            of an update, whatever the number of processes; gradient_accumulation_steps follows from it
# --restarts           of all processes after a failure; default 100
#
# When a process or a machine is lost, all processes start again, see who is there, and go on from the last checkpoint:
# keep save_steps small. Updates see the same samples in the same order. For DDP and FSDP2 (--fsdp full_shard).
set -euo pipefail

nodes=1
gpus=
meet=localhost:29400
restarts=100
samples=
while [ $# -gt 0 ]; do
    case "$1" in
        --nodes) nodes=${2:?--nodes needs a value}; shift 2 ;;
        --gpus) gpus=${2:?--gpus needs a value}; shift 2 ;;
        --meet) meet=${2:?--meet needs a value}; shift 2 ;;
        --samples) samples=${2:?--samples needs a value}; shift 2 ;;
        --restarts) restarts=${2:?--restarts needs a value}; shift 2 ;;
        sft | pretrain) break ;;
        *)
            echo "unknown option \"$1\"; known: --nodes, --gpus, --meet, --samples, --restarts, then sft or pretrain" >&2
            exit 2
            ;;
    esac
done
micro=8
words=("$@")
for ((place = 0; place < ${#words[@]}; place++)); do
    case "${words[place]}" in
        --per_device_train_batch_size) micro=${words[place + 1]:?} ;;
        --per_device_train_batch_size=*) micro=${words[place]#*=} ;;
    esac
done
if [ $# -eq 0 ] || [ -z "$samples" ]; then
    echo "elastic.sh needs --samples (of an update), then sft or pretrain and its options" >&2
    exit 2
fi
gpus=${gpus:-$(nvidia-smi --list-gpus | wc -l)}

# Only a process knows how many there are this time.
# shellcheck disable=SC2016
one_process='
    together=$(($1 * WORLD_SIZE))
    if [ $(($2 % together)) -ne 0 ]; then
        echo "--samples $2 is no multiple of $together, what $WORLD_SIZE processes see in a forward" >&2
        exit 2
    fi
    exec python -m unmask "${@:3}" --gradient_accumulation_steps $(($2 / together))
'
# The launcher would offer restarted processes the addresses of those before them, which are gone.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes "$nodes" --nproc_per_node "$gpus" --max_restarts "$restarts" \
    --rdzv_backend c10d --rdzv_endpoint "$meet" --rdzv_id "${SLURM_JOB_ID:-unmask}" \
    --no_python bash -c "$one_process" process "$micro" "$samples" "${words[@]}"
