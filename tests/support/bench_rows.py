"""Made-up rows for the tests of benchmarks' tables."""


def ratio(median: float) -> dict[str, float]:
    """As ``bench.harness.summary`` gives it."""
    return {"median": median, "q1": median - 0.01, "q3": median + 0.01, "n": 9}
