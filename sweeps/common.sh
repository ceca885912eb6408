# What the sweeps share: `usage` at the beginning, `train` for each run, `finish` at the end.
# ACCELERATE_CONFIG names another file of accelerate_configs/ than that for the CPU.
finished=() failed=() running='' stopped=''
trap 'stop 130' INT
trap 'stop 143' TERM

# usage COUNT "$@": the words given must be COUNT or more; else, or asked for help, print the sweep's first lines.
usage() {
    local count=$1
    shift
    if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
        sed -n '1d; /^#/!q; s/^# //p' "$0"
        exit
    elif [ $# -lt "$count" ]; then
        sed -n '1d; /^#/!q; s/^# //p' "$0" >&2
        exit 2
    elif [ ! -e run_classifier.py ]; then
        echo "error: run_classifier.py is not here: start the sweep in $(cd "$(dirname "$0")/.." && pwd)" >&2
        exit 2
    fi
}

# train SCRIPT OUTPUT_DIR FLAG...: a run, unless it is finished already. One that fails does not end the sweep.
train() {
    local script=$1 run=$2 status
    shift 2
    if [ -e "$run/all_results.json" ]; then
        echo "$run is finished: skipped"
        finished+=("$run")
        return
    fi
    # In the background, as bash hears signals while it waits, but not while a command runs.
    accelerate launch --config_file "${ACCELERATE_CONFIG:-accelerate_configs/cpu.yaml}" \
        "$script" "$@" --output_dir "$run" &
    running=$!
    while
        wait "$running"
        status=$?
        kill -0 "$running" 2>/dev/null # a signal has ended the waiting, not the run
    do :; done
    running=''
    [ -z "$stopped" ] || quit
    if [ $status -eq 0 ]; then finished+=("$run"); else failed+=("$run"); fi
}

# stop STATUS, on a signal: tell the training, which saves a checkpoint and ends; `train` then quits.
# Its launcher is not told: it would end at once. Ctrl-C reaches the training from the terminal too, which counts once.
stop() {
    stopped=$1
    [ -n "$running" ] || quit
    pkill -TERM -P "$running" || kill -TERM "$running"
}

quit() {
    echo "stopped: give the same command again to go on" >&2
    exit "$stopped"
}

# finish: compare what there is, and name what has failed.
finish() {
    local status=0
    [ ${#finished[@]} -eq 0 ] || python compare_runs.py "${finished[@]}" || status=$?
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
    exit $status
}
