"""Try the scripts with thousands of bad tables, flags, folders and kills.

    python -m benchmarks.hardness --minutes 30
    python -m benchmarks.hardness --minutes 5 --kinds flags --seed 17

Tables are written in every format and damaged; flags get values made from their types; folders of finished runs and
checkpoints are damaged file by file; commands are killed at random moments and given again; eight processes at a time
predict with one run. Failures are: a traceback, an exit status other than 0 and 2, no line or several that say what is
wrong, rows or scores that differ from what they must be, files left behind. Each is printed with its seed, by which it
can be tried again.
"""

import argparse
import sys
import time

from benchmarks.hardness import cases
from utils.core.tables import format_table

WANTED = {"tables": 2000, "flags": 1000, "folders": 300, "kills": 200, "predictions": 100}


def main() -> None:
    """Try, print each failure and a table of counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="when to stop at the latest")
    parser.add_argument("--kinds", nargs="+", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--most", type=float, default=1.0, help="share of the cases to try: 1 is " + str(WANTED))
    args = parser.parse_args()
    with cases.prepared_folder("hardness") as folder:
        begun = time.monotonic()
        from benchmarks.hardness.trying import try_all

        material = cases.make_material(folder)
        wanted = {kind: round(WANTED[kind] * args.most) for kind in args.kinds}
        counts = try_all(material, wanted, args.minutes, args.seed, lambda line: print(line, flush=True))
    print(format_table(["what", "tried", "ended well", "refused in one line", "failed"], counts.rows(), markdown=True))
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes, seeds from {args.seed}")
    sys.exit(1 if counts.failures else 0)


if __name__ == "__main__":
    main()
