# SPDX-License-Identifier: Apache-2.0
"""What the scripts in this folder share: print the `reshard` line that does the job, and become it."""

import os
import shlex
import sys


def given(arguments):
    """Names of the options among these arguments."""
    return {argument.split("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}


def run(arguments):
    """Runs $RESHARD (a program, or a launcher line that ends in one; by default `reshard`) with these arguments."""
    command = shlex.split(os.environ.get("RESHARD", "reshard")) + [str(argument) for argument in arguments]
    print("+ " + shlex.join(command), file=sys.stderr, flush=True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}; put reshard on PATH, or set RESHARD=/path/to/reshard", file=sys.stderr)
        sys.exit(127)
