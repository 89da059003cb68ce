"""How traffic is shared by the two slots, in percent. Both are always named."""

from dataclasses import dataclass

from inferstack.environment import SlotName


@dataclass(frozen=True)
class Weights:
    """Percent of each slot; together 100."""

    blue: int
    green: int

    def __post_init__(self) -> None:
        if self.blue < 0 or self.green < 0 or self.blue + self.green != 100:
            raise ValueError(f"weights {self.blue}/{self.green}: expected two shares that add up to 100")

    @classmethod
    def share(cls, slot: SlotName, percent: int) -> "Weights":
        """`percent` on `slot`, the rest on the other."""
        return cls(percent, 100 - percent) if slot is SlotName.BLUE else cls(100 - percent, percent)

    def of(self, slot: SlotName) -> int:
        return self.blue if slot is SlotName.BLUE else self.green

    @property
    def sole(self) -> SlotName | None:
        """The slot that has all traffic."""
        return next((slot for slot in SlotName if self.of(slot) == 100), None)

    def __str__(self) -> str:
        return f"blue {self.blue} / green {self.green}"
