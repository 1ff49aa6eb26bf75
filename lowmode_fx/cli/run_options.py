"""``train --resume RUN``: a run's summary holds the options that it was started with, and it goes on with them."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

from lowmode_fx.cli.default_ladder import choose_modes
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import Data
from lowmode_fx.cli.outputs import as_path
from lowmode_fx.train.names import SUMMARY
from passes.errors import OptionError
from passes.wording import first_line

#: Options of a call, which say nothing of the run.
_OF_A_CALL = ("out", "resume", "overwrite")
_PATHS = ("tuned", "weights")
#: Beside the options, the folder that their paths are relative to.
STARTED_IN = "started_in"
#: The plan in the file that ``--tuned`` named, which may have another one by the time that the run goes on.
TUNED_PLAN = "tuned_plan"


def stored_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's summary holds of its options by parameter, in JSON's values: those given, switches, its plan."""
    kept = {name: value for name, value in options.items() if value is not None and name not in _OF_A_CALL}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}
    return {**plain, STARTED_IN: str(Path.cwd())}


def read_options(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """The options that ``stored_options`` left in a run folder; ``known``: those of the command.

    The process goes to the folder that the run was started in, to which its paths are relative.

    Raises ``ValueError`` for a folder without a run, and for a run without options that this version knows.
    """
    name = f"run folder {str(folder)!r}"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{name} {what}; give the folder of a run, or a model and --data")
    if not (folder / SUMMARY).is_file():
        raise ValueError(f"{name} holds no run: it has no {SUMMARY}; give another, or a model and --data")
    again = f"give all of its options again: lowmode-fx train MODEL --data DATA ... --resume --out {folder}"
    try:
        options = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("options")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(folder / SUMMARY)!r} can't be read ({first_line(error)}); {again}") from error
    if options is None:
        raise ValueError(f"{name} doesn't hold the options of its run, which is of an older version; {again}")
    started_in = options.pop(STARTED_IN, None) if isinstance(options, dict) else None
    plain = isinstance(options, dict) and all(
        isinstance(value, dict if name == TUNED_PLAN else str | int | float) for name, value in options.items()
    )
    if not plain or not {"model", "data"} <= options.keys() <= set(known):
        raise ValueError(f"{name} holds options of its run that this version doesn't know; {again}")
    if isinstance(started_in, str):
        try:
            os.chdir(started_in)
        except OSError as error:
            raise ValueError(
                f"{name} was started in {started_in!r}, which is gone ({error.strerror}); {again}"
            ) from error
    return {option: as_path(value) if option in _PATHS else value for option, value in options.items()}


def records_plan(folder: Path) -> bool:
    """Whether a run folder holds the plan that its run began with."""
    try:
        return TUNED_PLAN in json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def resumes_by_folder(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate ``train``: where ``model`` names a run to resume, options that aren't given are those of the run.

    ``data`` may then be left out, too.
    """
    signature = inspect.signature(command)
    parameters = dict(signature.parameters)
    help = get_args(parameters["data"].annotation)[1].help
    optional = Annotated[str | None, Data(help=f"{help} (required, but for --resume RUN)")]
    parameters["data"] = parameters["data"].replace(default=None, annotation=optional)
    offered = [parameter for name, parameter in parameters.items() if name != TUNED_PLAN]

    @wraps(command)
    def resuming(**options: Any) -> None:
        given = {name: value for name, value in options.items() if value != parameters[name].default}
        if given.get("resume") and _is_run(given["model"], given.get("data")):
            folder, here = as_path(given.pop("model")), Path.cwd()
            if given.get("out", folder) != folder:
                raise OptionError("out", given["out"], f"is not the run to resume, {str(folder)!r}", "leave it out")
            stored = read_options(folder, parameters)
            if not choose_modes(stored):  # of a version in which half of the steps were low by default
                stored["p"] = "0.5"
            if "tuned" in given:
                stored.pop(TUNED_PLAN, None)
            given = {**stored, **given, "out": folder if Path.cwd() == here else here / folder}
        if "data" not in given and (as_path(given["model"]) / SUMMARY).is_file():
            run = given["model"]
            raise ValueError(f"{run!r} is the folder of a run; give --resume to go on with it, or a model and --data")
        if "data" not in given:
            raise ValueError("Missing option '--data'; give digits, folder:PATH or another, see --help")
        command(**given)

    resuming.__signature__ = signature.replace(parameters=offered)  # type: ignore[attr-defined]
    return resuming


def _is_run(model: str, data: str | None) -> bool:
    """Whether a run folder is meant: beside ``--data``, what is a model's name is a model."""
    if data is None:
        return True
    if not (as_path(model) / SUMMARY).is_file():
        return False
    try:
        check_model_name(model)
    except ValueError:
        return True
    return False
