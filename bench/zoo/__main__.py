"""Every model of the zoos: how many give a right pair, and what would it save?

``python -m bench.zoo`` checks all of timm and torchvision (some hours on two cores) and leaves under
``bench/results/``: ``zoo.jsonl`` (a record per model), ``zoo.csv``, ``zoo.md``, ``zoo.png``, ``zoo.json`` (header and
summaries). ``--small`` takes one model in twenty, ``--source`` and ``--filter`` the models of a zoo or of a name,
``--names`` those of a file, in its order; ``--resume`` continues after the models with records. The networks of
transformers and ultralytics (``--source transformers,ultralytics --out bench/results/zoo_others.jsonl``) need
``pip install 'lowmode-fx[zoo]'``.
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
    parser.add_argument(
        "--source", default="timm,torchvision", help="zoos, of timm,torchvision,transformers,ultralytics"
    )
    parser.add_argument("--filter", default="*", help="a glob over names, as 'resnet*'")
    parser.add_argument("--names", type=Path, help="a file of names, one per line, to check in that order")
    parser.add_argument("--graphs", default="fx", help="front ends whose graphs are proven and compared: fx,export")
    parser.add_argument("--resume", action="store_true", help="keep existing records")
    parser.add_argument("--jobs", type=int, default=2, help="number of models checked at the same time")
    parser.add_argument("--timeout", type=float, default=900.0, help="time limit for one model, in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.jsonl")
    options = parser.parse_args(arguments)
    try:
        if options.names:
            names = options.names.read_text().split()
        else:
            names = model_names(_parts(options.source), options.filter)
        run(names[:: 20 if options.small else 1], options)
    except ValueError as error:
        parser.error(str(error))


def run(names: Sequence[str], options: argparse.Namespace) -> None:
    """Check the models of these names, and write the results."""

    def show(record: Record) -> None:
        print(f"{record.name}: {record.status} {record.reason}".rstrip(), flush=True)

    records = sweep(
        names,
        options.out,
        jobs=options.jobs,
        timeout=options.timeout,
        resume=options.resume,
        graphs=_parts(options.graphs),
        on_record=show,
    )
    write_results([record for record in records if record.name in set(names)], options.out, options)


def write_results(records: list[Record], out: Path, options: argparse.Namespace) -> None:
    """Write the summaries, the tables and the plot next to the records."""
    head = header("zoo", small=options.small, jobs=options.jobs, timeout=options.timeout, graphs=options.graphs)
    save(out.with_suffix(".json"), head, {zoo: summarize(each).to_dict() for zoo, each in by_zoo(records).items()})
    out.with_suffix(".md").write_text(to_markdown(records))
    out.with_suffix(".csv").write_text(to_csv(records))
    plot(records, out.with_suffix(".png"))
    print(zoo_lines(records))


def _parts(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


if __name__ == "__main__":
    main()
