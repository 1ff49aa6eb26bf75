"""``lowmode-fx``: the commands, and what a user's mistake looks like: one line, exit status 2."""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Annotated

import typer

from lowmode_fx.cli.command import CommandError, CommandInterrupted, as_command
from lowmode_fx.cli.draw_command import draw
from lowmode_fx.cli.evaluate_command import evaluate
from lowmode_fx.cli.report_command import report
from lowmode_fx.cli.streams import print_in_any_encoding
from lowmode_fx.cli.train_command import train
from lowmode_fx.cli.tune_command import probe, tune
from lowmode_fx.cli.usage import usage_line

#: Seconds that another rank of torchrun waits for the first to say what is wrong, and be ended with it.
FIRST_RANK_SPEAKS = 15.0

app = typer.Typer(
    name="lowmode-fx",
    help="Train CNNs for less: cheaper modes over the same parameters, for part of the steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from lowmode_fx.utils.version import PACKAGE, __version__

        print(PACKAGE, __version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (report, probe, tune, train, evaluate, draw):
    app.command()(as_command(command))


def main() -> None:
    """Run a command. What the user got wrong is one line on standard error and exit status 2."""
    run_app(app, "lowmode-fx")


def run_app(app: typer.Typer, name: str) -> None:
    """Run the command of ``app`` that the arguments name, as ``main`` does. name: of the program."""
    print_in_any_encoding()
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"torch\.|timm\.")
    try:
        status = app(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CommandError as error:
        _fail(str(error))
    except typer.TyperException as error:
        if not error.format_message():  # no command: its help is printed
            sys.exit(0)
        _fail(usage_line(error, sys.argv[1:]))
    except (CommandInterrupted, typer.Abort, KeyboardInterrupt) as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> None:
    _leave_it_to_the_first_rank()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _leave_it_to_the_first_rank() -> None:
    """What is wrong with the options is so on every rank: the first says it, and torchrun then ends the others.

    Where only this rank fails, it speaks after a while.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0":
        time.sleep(FIRST_RANK_SPEAKS)
