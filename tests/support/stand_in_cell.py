"""What stands in for the process of a cell: it answers at once, as STAND_IN says for a method, and imports no torch."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.support.compared import WHOLE, measured


def main() -> None:
    """Read the work, note it in the file STAND_IN_LOG, and answer."""
    work = json.loads(sys.stdin.read())
    asked, behaviours = work["asked"], json.loads(os.environ.get("STAND_IN", "{}"))
    method = "dense" if work["dense"] else asked["importance"] or asked["method"]
    what = behaviours.get(method, "")
    if "STAND_IN_LOG" in os.environ:
        with Path(os.environ["STAND_IN_LOG"]).open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"{method} {asked['target_params']} {asked['seed']} {os.getpid()}\n")
    print(json.dumps({"progress": ["pruning", 1, 2]}), flush=True)
    print("a library's word", flush=True)
    if what == "sleeps":
        time.sleep(60)
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "ends":
        sys.exit("it could not go on")
    if what == "fails":
        print(json.dumps({"error": "the pass prune failed: no reason given"}), flush=True)
        sys.exit(1)
    share = float(asked["target_params"].rstrip("%")) / 100
    wanted = round(WHOLE * share)
    found = measured(wanted + (what == "above"), 4.0 - 3.0 * share + 0.01 * asked["seed"], wanted)
    print(json.dumps({"measured": found.model_dump()}), flush=True)


if __name__ == "__main__":
    main()
