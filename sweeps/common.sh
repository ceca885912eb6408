# What the sweeps share: `train` for each run, `finish` at the end.
# ACCELERATE_CONFIG names another file of accelerate_configs/ than that for the CPU.
finished=() failed=()
trap 'echo "stopped: give the same command again to go on" >&2; exit 130' INT TERM

# train SCRIPT OUTPUT_DIR FLAG...: a run, unless it is finished already. One that fails does not end the sweep.
train() {
    local script=$1 run=$2
    shift 2
    if [ -e "$run/all_results.json" ]; then
        echo "$run is finished: skipped"
    elif ! accelerate launch --config_file "${ACCELERATE_CONFIG:-accelerate_configs/cpu.yaml}" \
        "$script" "$@" --output_dir "$run"; then
        failed+=("$run")
        return
    fi
    finished+=("$run")
}

# finish: compare what there is, and name what has failed.
finish() {
    [ ${#finished[@]} -eq 0 ] || python compare_runs.py "${finished[@]}"
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
}
