"""The command line: `redis-state`, or `python -m redis_state`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from redis_state.cli.demo import demo
from redis_state.errors import StateStoreError
from redis_state.testing import LocalServerError


def main(words: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0; 1 after an error, which is one line on stderr; 130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help()
        return 0
    stdout: Any = sys.stdout
    stdout.reconfigure(errors="replace")  # for a terminal that knows no µ
    try:
        asyncio.run(demo(arguments.url or os.environ.get("REDIS_URL") or None))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, perhaps `head`, has seen enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (StateStoreError, LocalServerError, ValueError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"redis-state: {str(error).splitlines()[0]}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="redis-state", description="The state of AI agents in Redis.")
    parser.add_argument("--version", action="version", version=f"redis-state {version('redis-state')}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="command")
    about = "save, load, list and delete a few sessions, and see what stands in Redis"
    where = "Without a URL the demo starts a private Redis, or runs in memory where none is installed."
    command = commands.add_parser("demo", help=about, description=f"The demo: {about}.", epilog=where)
    command.add_argument("--url", help="the Redis to use; REDIS_URL by default, the better place for a password")
    return parser


if __name__ == "__main__":
    sys.exit(main())
