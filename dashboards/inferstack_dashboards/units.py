"""Numbers as people read them, in Grafana's units. Pure."""

_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_SECONDS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SUFFIXES = {"reqps": " req/s", "ops": " /s", "celsius": " °C", "watt": " W"}


def shown(value: float, unit: str) -> str:
    """A value with its unit.

    >>> shown(0.0123, "s"), shown(0.256, "percentunit"), shown(1536, "bytes"), shown(12345, "short"), shown(0.5, "currencyUSD")
    ('12.3 ms', '25.6 %', '1.5 KiB', '12.3 k', '$0.5')
    """
    if unit == "percentunit":
        return f"{_figure(value * 100)} %"
    if unit == "percent":
        return f"{_figure(value)} %"
    if unit == "currencyUSD":
        return f"${_figure(value)}"
    if unit == "bytes":
        size = unit_size(value, unit)
        return f"{_figure(value / size)} {dict(_BYTES)[size]}"
    if unit == "s":
        size = unit_size(value, unit)
        return f"{_figure(value / size)} {dict(_SECONDS)[size]}"
    size, name = next((row for row in _SCALES if abs(value) >= row[0]), _SCALES[-1])
    return f"{_figure(value / size)} {name}".strip() + _SUFFIXES.get(unit, "")


def unit_size(value: float, unit: str) -> float:
    """The bytes or seconds of the name that `value` is shown with; 1 for other units."""
    rows = {"bytes": _BYTES, "s": _SECONDS}.get(unit, ())
    return next((size for size, _ in rows if abs(value) >= size), 1.0)


def _figure(value: float) -> str:
    """Three digits, as far as they say something."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
