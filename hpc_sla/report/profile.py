"""The table of ``--profile``."""

from __future__ import annotations

from typing import IO, Any

from hpc_sla.report.tables import count, print_table, seconds, size


def print_profile(measured: dict[str, Any], file: IO[str] | None = None) -> None:
    """Print what the time went to, most expensive first.

    Parameters
    ----------
    measured : dict
        Of `hpc_sla.observe.profile.summarise`.
    file : text stream, default ``sys.stdout``
    """
    rows = []
    events = measured["events"]
    for name, event in events.items():
        ratio, rate = event["ratio"], event["gb_per_second"]
        rows.append(
            [
                name,
                count(event["calls"]),
                f"{event['seconds_max']:.4g}",
                "-" if ratio is None else f"{ratio:.2f}",
                f"{100 * event['share']:.1f} %",
                size(event["bytes_per_rank"]) if event["bytes_per_rank"] else "-",
                "-" if rate is None else f"{rate:.3g}",
            ]
        )
    rest = max(0.0, 1.0 - sum(event["share"] for event in events.values()))
    rows.append(["(everything else)", "", "", "", f"{100 * rest:.1f} %", "", ""])
    print_table(
        f"profile of {seconds(measured['seconds'])}",
        ("event", "calls", "seconds", "max/min", "share", "moved a rank", "GB/s"),
        rows,
        right=(1, 2, 3, 4, 5, 6),
        file=file,
    )
