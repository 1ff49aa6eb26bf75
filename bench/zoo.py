"""Every model of both zoos: how many give a right pair, and what would it save?

``python -m bench.zoo`` checks them all (about an hour and a half on two cores) and leaves under ``bench/results/``:
``zoo.jsonl`` (a record a model), ``zoo.csv``, ``zoo.md``, ``zoo.png`` and ``zoo.json`` (header and summaries).
``--small`` takes one model in twenty; ``--resume`` goes on from what the records have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.harness import RESULTS, header, save
from lowmode_fx.sweep import Record, sweep
from lowmode_fx.sweep.plot import plot
from lowmode_fx.sweep.summary import summarize, summary_lines, to_csv, to_markdown
from lowmode_fx.sweep.zoo import model_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one model in twenty")
    parser.add_argument("--resume", action="store_true", help="keep the records there are")
    parser.add_argument("--jobs", type=int, default=2, help="models checked side by side")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one model")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.jsonl")
    options = parser.parse_args()
    names = model_names(["timm", "torchvision"])[:: 20 if options.small else 1]

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


def by_zoo(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each zoo, and of both."""
    ours = {
        "timm": [record for record in records if not record.name.startswith("torchvision:")],
        "torchvision": [record for record in records if record.name.startswith("torchvision:")],
    }
    return {**ours, "both": records}


def zoo_lines(records: list[Record]) -> str:
    """How many models of each zoo are right; the rest of the summary over both."""
    lines = []
    for zoo, members in by_zoo(records).items():
        first, *more = summary_lines(members)
        lines += [f"{zoo}: {line}" for line in ([first] if zoo != "both" else more)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
