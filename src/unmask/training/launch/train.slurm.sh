#!/usr/bin/env bash
# Train on one or more nodes of a Slurm cluster, one launcher per node, one process per GPU:
#
#   sbatch --nodes=2 --gres=gpu:8 train.slurm.sh --accelerate_config zero2 sft --model_name_or_path MODEL \
#       --dataset_args "DATA[train:1000]" ...
#
# --accelerate_config  ddp, zero1, zero2, zero3, fsdp2, or a file of your own
# sft or pretrain      the verb; everything after it is what `unmask` is given
#
# or, as in older scripts, --script_path sft (or pretrain; .../sft.py and .../pt.py mean the same) and --script_args with
# everything after the verb as one string; quotes inside it are kept.
#
# Two minutes before the time limit the processes are told to save (SIGUSR1), and the job is put back into the queue; a
# job that is preempted and requeued by Slurm goes on from its last checkpoint too. Give larger models longer: --signal.
#
# Edit the two lines below for your cluster, or give them to sbatch. The folder logs has to exist.
##SBATCH --partition=YOUR_PARTITION
##SBATCH --quotatype=YOUR_QUOTA
#SBATCH --job-name=unmask
#SBATCH --ntasks-per-node=1
#SBATCH --output=logs/%x-%j.out
#SBATCH --error=logs/%x-%j.err
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

set -euo pipefail

config=ddp
script=sft
script_args=
words=()
while [ $# -gt 0 ]; do
    case "$1" in
        --accelerate_config) config=${2:?--accelerate_config needs a value}; shift 2 ;;
        --script_path) script=${2:?--script_path needs a value}; shift 2 ;;
        --script_args) script_args=${2?--script_args needs a value}; shift 2 ;;
        sft | pretrain) script=$1; shift; words=("$@"); break ;;
        *)
            if [ -z "${1//[[:space:]]/}" ]; then shift; continue; fi
            echo "unknown option \"$1\"; known: --accelerate_config NAME, then sft or pretrain and its options;" \
                "or --script_path, --script_args" >&2
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
if [ -n "${script_args//[[:space:]]/}" ]; then
    mapfile -t -O "${#words[@]}" words < <(xargs printf '%s\n' <<<"$script_args")
fi

config_file=$(python -m unmask.training.launch "$config")
nodes=${SLURM_NNODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-$(nvidia-smi --list-gpus | wc -l)}
# not through head: it may be gone before all names are written, which pipefail takes for a failure
read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))

# On each node a shell starts the launcher, which does not hear the signal, and hands it to the processes below, which
# do. The rank of a node is only known on the node, hence the quotes.
# shellcheck disable=SC2016
on_a_node='
    (
        trap "" USR1
        exec accelerate launch --config_file "$1" --num_machines "$2" --num_processes "$3" \
            --main_process_ip "$4" --main_process_port "$5" --machine_rank "$SLURM_NODEID" \
            --rdzv_backend c10d -m unmask "${@:6}"
    ) &
    launcher=$!
    trap "pkill -USR1 -P $launcher" USR1
    status=138
    while [ "$status" -eq 138 ]; do
        wait "$launcher" && status=0 || status=$?
    done
    exit "$status"
'
srun --kill-on-bad-exit=1 bash -c "$on_a_node" launch \
    "$config_file" "$nodes" "$((nodes * gpus))" "$first_node" "$port" "$verb" "${words[@]}" &
step=$!

stopping=
# shellcheck disable=SC2329
stop() {
    stopping=1
    # again and again: processes that are still starting do not hear the first one
    (while kill -USR1 "$step"; do sleep 10; done) >/dev/null 2>&1 &
}
trap stop USR1

# 138: the signal came while waiting
status=138
while [ "$status" -eq 138 ]; do
    wait "$step" && status=0 || status=$?
done
if [ -n "$stopping" ]; then
    echo "the time limit is near: the job goes back into the queue and will go on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
