"""``lowmode-fx``: the commands, and what a user's mistake looks like: one line, exit status 2."""

from __future__ import annotations

import sys
import warnings

import typer

from lowmode_fx.cli.draw_command import draw
from lowmode_fx.cli.options import spelled_as_options
from lowmode_fx.cli.report_command import report
from lowmode_fx.cli.train_command import train
from lowmode_fx.cli.tune_command import probe, tune

app = typer.Typer(
    name="lowmode-fx",
    help="Train CNNs for less: a second, cheaper graph over the same parameters, for part of the steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (report, probe, tune, train, draw):
    app.command()(command)


def main() -> None:
    """Run a command. What the user got wrong is one line on standard error and exit status 2."""
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"torch\.|timm\.")
    try:
        status = app(standalone_mode=False)
    except (ValueError, TypeError, OSError, typer.TyperException) as error:
        # What typer itself refuses doesn't say what to do.
        message = str(error)
        if isinstance(error, typer.TyperException):
            message = f"{error.format_message().rstrip('.')}; see --help"
        print(f"error: {spelled_as_options(' '.join(message.split()))}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
