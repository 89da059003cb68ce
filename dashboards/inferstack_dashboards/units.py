"""Numbers as people read them, in Grafana's units. Pure."""

_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_SECONDS = ((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
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
        size = byte_size(value)
        return f"{_figure(value / size)} {dict(_BYTES)[size]}"
    if unit == "s":
        seconds, name = next((row for row in _SECONDS if abs(value) >= row[0]), (1.0, "s"))
        return f"{_figure(value / seconds)} {name}"
    size, name = next((row for row in _SCALES if abs(value) >= row[0]), _SCALES[-1])
    return f"{_figure(value / size)} {name}".strip() + _SUFFIXES.get(unit, "")


def byte_size(value: float) -> float:
    """The bytes of the unit that `value` is shown in."""
    return next((size for size, _ in _BYTES if abs(value) >= size), 1.0)


def _figure(value: float) -> str:
    """Three digits, as far as they say something."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
