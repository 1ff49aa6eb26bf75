"""Every model of both zoos: how many give a right pair, and what would it save?

``python -m bench.zoo`` checks them all (about an hour and a half on two cores) and leaves under ``bench/results/``:
``zoo.jsonl`` (a record a model), ``zoo.csv``, ``zoo.md``, ``zoo.png`` and ``zoo.json`` (header and summaries).
``--small`` takes one model in twenty, ``--source`` and ``--filter`` those of a zoo or of a name; ``--resume`` goes on
from what the records have.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.harness import RESULTS, header, save
from bench.zoo import Record, sweep
from bench.zoo.names import model_names
from bench.zoo.plot import plot
from bench.zoo.summary import by_zoo, summarize, to_csv, to_markdown, zoo_lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one model in twenty")
    parser.add_argument("--source", default="timm,torchvision", help="timm, torchvision, or both: timm,torchvision")
    parser.add_argument("--filter", default="*", help="a glob over names, as 'resnet*'")
    parser.add_argument("--resume", action="store_true", help="keep the records there are")
    parser.add_argument("--jobs", type=int, default=2, help="models checked side by side")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one model")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.jsonl")
    options = parser.parse_args(arguments)
    try:
        names = model_names([part.strip() for part in options.source.split(",")], options.filter)
        run(names[:: 20 if options.small else 1], options)
    except ValueError as error:
        parser.error(str(error))


def run(names: Sequence[str], options: argparse.Namespace) -> None:
    """Check the models of these names, and write what was found."""

    def show(record: Record) -> None:
        print(f"{record.name}: {record.status} {record.reason}".rstrip(), flush=True)

    records = sweep(
        names, options.out, jobs=options.jobs, timeout=options.timeout, resume=options.resume, on_record=show
    )
    write_results([record for record in records if record.name in set(names)], options.out, options)


def write_results(records: list[Record], out: Path, options: argparse.Namespace) -> None:
    """The summaries, the tables and the plot beside the records."""
    head = header("zoo", small=options.small, jobs=options.jobs, timeout=options.timeout)
    save(out.with_suffix(".json"), head, {zoo: summarize(each).to_dict() for zoo, each in by_zoo(records).items()})
    out.with_suffix(".md").write_text(to_markdown(records))
    out.with_suffix(".csv").write_text(to_csv(records))
    plot(records, out.with_suffix(".png"))
    print(zoo_lines(records))


if __name__ == "__main__":
    main()
