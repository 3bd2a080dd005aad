"""Where scales learn: a device, and what is done where the memory of it runs out."""

from __future__ import annotations

from kanna._util.progress import Progress, remark
from kanna.calibration.devices import CPU, pick_device
from kanna.optimization.tuning.head import LOGITS

_SHARE = 8


class TuningDevice:
    """A device, and how much is held there at a time.

    Attributes:
        named: The device that the training began on.
        device: The one that it goes on on.
        logits: Logits in memory at a time.
        remarks: What was done where memory ran out.
    """

    def __init__(self, device: str | None, progress: Progress) -> None:
        """Choose it.

        Args:
            device: cpu, cuda or mps; None: an accelerator when there is one.
            progress: Is shown remarks.
        """
        self.device = self.named = pick_device(device)
        self.logits, self.remarks = LOGITS, list[str]()
        self._progress = progress

    def lighten(self) -> bool:
        """Take an eighth of the logits at a time, then the CPU; False where nothing is left."""
        full = f"the memory of {self.device} did not suffice to tune scales"
        if self.device == CPU:
            return False
        if self.logits == LOGITS:
            self.logits //= _SHARE
            self.remarks.append(f"{full}: an eighth of the logits at a time from there on")
        else:
            self.device = CPU
            self.remarks.append(f"{full}: on the CPU from the last epoch on")
        remark(self._progress, self.remarks[-1])
        return True
