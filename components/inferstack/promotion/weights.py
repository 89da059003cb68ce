"""How traffic is shared by the two slots: in percent, and by a header that takes its requests to one of them. Both are always named."""

from dataclasses import dataclass

from inferstack.environment import SlotName


@dataclass(frozen=True)
class Cohort:
    """Requests with the header `name: value` go to `slot`, whatever the percents say."""

    name: str
    value: str
    slot: SlotName

    def __str__(self) -> str:
        return f"{self.name}: {self.value} to {self.slot}"


@dataclass(frozen=True)
class Weights:
    """Percent of each slot, together 100, and the cohort that is told apart by a header."""

    blue: int
    green: int
    cohort: Cohort | None = None

    def __post_init__(self) -> None:
        if self.blue < 0 or self.green < 0 or self.blue + self.green != 100:
            raise ValueError(f"weights {self.blue}/{self.green}: expected two shares that add up to 100")

    @classmethod
    def share(cls, slot: SlotName, percent: int, cohort: Cohort | None = None) -> "Weights":
        """`percent` on `slot`, the rest on the other."""
        return cls(percent, 100 - percent, cohort) if slot is SlotName.BLUE else cls(100 - percent, percent, cohort)

    def of(self, slot: SlotName) -> int:
        return self.blue if slot is SlotName.BLUE else self.green

    @property
    def sole(self) -> SlotName | None:
        """The slot that has all traffic."""
        return next((slot for slot in SlotName if self.of(slot) == 100 and not self.reach(slot.other)), None)

    def reach(self, slot: SlotName) -> bool:
        """Whether any request goes to the slot."""
        return self.of(slot) > 0 or (self.cohort is not None and self.cohort.slot is slot)

    def __str__(self) -> str:
        return f"blue {self.blue} / green {self.green}" + (f", {self.cohort}" if self.cohort else "")
