"""``python -m gemmaspec.runtime``: the operator's process."""

from __future__ import annotations

import logging
import sys

import uvloop

from gemmaspec.runtime import garbage
from gemmaspec.runtime.handlers import run
from gemmaspec.runtime.options import OptionError, from_environment


def main() -> int:
    """Run the operator; 2 for options that can't be read."""
    try:
        options = from_environment()
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel("WARNING")
    garbage.leave_out_modules()
    uvloop.run(run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
