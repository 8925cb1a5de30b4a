"""What the record says about R_free, in one sentence."""

from equipoise.report.record import Record


def r_free_sentence(record: Record) -> str:
    """Say how much accuracy is left if the attacker chooses the fusing weight, too.

    Args:
        record: A record with the field ``r_free``.

    Returns:
        One sentence, about the largest strength.

    Example:
        >>> record = {
        ...     "model": "afa",
        ...     "epsilons_written": ["0", "8/255"],
        ...     "headline": {"accuracy": [0.9, 0.5]},
        ...     "r_free": {"accuracy": [0.88, 0.45], "range": [0.0, 0.2], "gates": 1},
        ... }
        >>> r_free_sentence(record)
        'R_free of afa: 45.0 % at 8/255 if the attacker also sets W0 in [0, 0.2] (score: 50.0 %).'
    """
    free = record["r_free"]
    low, high = free["range"]
    gates = f" of each of {free['gates']} gates" if free["gates"] > 1 else ""
    return (
        f"R_free of {record['model']}: {100 * free['accuracy'][-1]:.1f} % at "
        f"{record['epsilons_written'][-1]} if the attacker also sets W0{gates} in [{low:g}, "
        f"{high:g}] (score: {100 * record['headline']['accuracy'][-1]:.1f} %)."
    )
