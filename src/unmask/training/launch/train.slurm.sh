#!/usr/bin/env bash
# Train on one or more nodes of a Slurm cluster, one launcher per node, one process per GPU:
#
#   sbatch --nodes=2 --gres=gpu:8 train.slurm.sh --accelerate_config deepspeed_zero2 \
#       --script_path sft --script_args '--model_name_or_path MODEL --dataset_args "DATA[train:1000]" ...'
#
# --accelerate_config  ddp, zero1, zero2, zero3, fsdp2, or a file of your own
# --script_path        sft or pretrain; .../sft.py and .../pt.py mean the same
# --script_args        everything after `unmask sft`, as one string; quotes inside it are kept
#
# Edit the two lines below for your cluster, or give them to sbatch.
##SBATCH --partition=YOUR_PARTITION
##SBATCH --quotatype=YOUR_QUOTA
#SBATCH --job-name=unmask
#SBATCH --ntasks-per-node=1
#SBATCH --output=logs/%x-%j.out
#SBATCH --error=logs/%x-%j.err
#SBATCH --requeue

set -euo pipefail

config=ddp
script=sft
script_args=
while [ $# -gt 0 ]; do
    case "$1" in
        --accelerate_config) config=${2:?--accelerate_config needs a value}; shift 2 ;;
        --script_path) script=${2:?--script_path needs a value}; shift 2 ;;
        --script_args) script_args=${2?--script_args needs a value}; shift 2 ;;
        *)
            if [ -z "${1//[[:space:]]/}" ]; then shift; continue; fi
            echo "unknown option \"$1\"; known: --accelerate_config, --script_path, --script_args" >&2
            exit 2
            ;;
    esac
done

case "$(basename "$script" .py)" in
    sft) verb=sft ;;
    pt | pretrain) verb=pretrain ;;
    *) echo "--script_path \"$script\" is neither sft nor pretrain" >&2; exit 2 ;;
esac

# xargs splits as a shell would, quotes included, and expands nothing: brackets of a dataset stay brackets.
words=()
if [ -n "${script_args//[[:space:]]/}" ]; then
    mapfile -t words < <(xargs printf '%s\n' <<<"$script_args")
fi

config_file=$(python -m unmask.training.launch "$config")
nodes=${SLURM_NNODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-$(nvidia-smi --list-gpus | wc -l)}
# not through head: it may be gone before all names are written, which pipefail takes for a failure
read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

# The rank of a node is only known on the node, hence the inner shell.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    exec accelerate launch --config_file "$1" --num_machines "$2" --num_processes "$3" \
        --main_process_ip "$4" --main_process_port "$5" --machine_rank "$SLURM_NODEID" \
        --rdzv_backend c10d -m unmask "${@:6}"
' launch "$config_file" "$nodes" "$((nodes * gpus))" "$first_node" "$port" "$verb" "${words[@]}"
