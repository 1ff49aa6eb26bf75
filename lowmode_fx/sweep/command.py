"""``lowmode-fx sweep``: build and check a pair of every model of the zoos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .plot import plot
from .record import Record
from .run import sweep as run_sweep
from .summary import summary_lines, to_csv, to_markdown
from .zoo import model_names


def sweep(
    source: Annotated[str, typer.Option(help="timm, torchvision, or both as timm,torchvision.")] = "timm,torchvision",
    filter: Annotated[str, typer.Option(help="A glob over names, as 'resnet*'.")] = "*",
    jobs: Annotated[int, typer.Option(min=1, help="Models checked side by side.")] = 2,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one model.")] = 300.0,
    out: Annotated[Path, typer.Option(help="JSONL; .md, .csv and .png come beside it.")] = Path("runs/sweep.jsonl"),
    resume: Annotated[bool, typer.Option("--resume", help="Keep what the file has, check the rest.")] = False,
) -> None:
    """Build, check and count a pair of every model that can be named; one that fails or hangs never ends the run."""
    names = model_names([part.strip() for part in source.split(",")], filter)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        live = progress.console.is_terminal
        task = progress.add_task("models", total=len(names), visible=live)

        def show(record: Record) -> None:
            progress.update(task, advance=1, description=record.name)
            if not live or record.status in ("wrong", "error", "timeout", "refused"):
                line = f"{record.name}: {record.status}" + (f" ({record.reason})" if record.reason else "")
                progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

        records = run_sweep(names, out, jobs=jobs, timeout=timeout, resume=resume, on_record=show)
    chosen = [record for record in records if record.name in set(names)]
    out.with_suffix(".md").write_text(to_markdown(chosen))
    out.with_suffix(".csv").write_text(to_csv(chosen))
    plot(chosen, out.with_suffix(".png"))
    for line in summary_lines(chosen):
        typer.echo(line)
    typer.echo(
        f"see {out}, {out.with_suffix('.md').name}, {out.with_suffix('.csv').name}, {out.with_suffix('.png').name}"
    )
