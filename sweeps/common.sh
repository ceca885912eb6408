# Functions of all sweeps: `usage` at the beginning, `train` for each run, `finish` at the end.
# ACCELERATE_CONFIG names the launch configuration; the default is accelerate_configs/cpu.yaml.
finished=() failed=() running='' stopped=''
trap 'stop 130' INT
trap 'stop 143' TERM

# usage COUNT "$@": with --help or fewer than COUNT arguments, print the comment at the top of the sweep and exit.
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

# train SCRIPT OUTPUT_DIR FLAG...: train one run, or skip it if it is finished. A failed run does not end the sweep.
train() {
    local script=$1 run=$2 status
    shift 2
    if [ -e "$run/manifest.json" ]; then
        echo "$run is finished: skipped"
        finished+=("$run")
        return
    fi
    # In the background: bash handles signals while it waits, but not while a foreground command runs.
    accelerate launch --config_file "${ACCELERATE_CONFIG:-accelerate_configs/cpu.yaml}" \
        "$script" "$@" --output_dir "$run" &
    running=$!
    while
        wait "$running"
        status=$?
        kill -0 "$running" 2>/dev/null # wait returned because of a signal; the run goes on
    do :; done
    running=''
    [ -z "$stopped" ] || quit
    if [ $status -eq 0 ]; then finished+=("$run"); else failed+=("$run"); fi
}

# stop STATUS, called on a signal: send SIGTERM to the training, which saves a checkpoint and ends; then `train` quits.
# The launcher gets no signal, because it would end at once. On Ctrl-C the training also gets SIGINT from the terminal,
# and counts the two signals as one.
stop() {
    stopped=$1
    [ -n "$running" ] || quit
    pkill -TERM -P "$running" || kill -TERM "$running"
}

quit() {
    echo "stopped: give the same command again to go on" >&2
    exit "$stopped"
}

# finish: compare the finished runs and list the failed ones.
finish() {
    local status=0
    [ ${#finished[@]} -eq 0 ] || python compare_runs.py "${finished[@]}" || status=$?
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
    exit $status
}
