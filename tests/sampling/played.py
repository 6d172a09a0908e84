"""Recordings without a GPU."""

from engine.sampling.networks.recording import Compute, Outputs


class PlayedRecording:
    """Calls again, and leaves the result where it was at first."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def record(self, compute: Compute) -> Outputs:
        self.num_recorded += 1
        self._compute, self._outputs = compute, tuple(o.clone() for o in compute())
        return self._outputs

    def replay(self) -> None:
        self.num_replayed += 1
        for place, value in zip(self._outputs, self._compute(), strict=True):
            place.copy_(value)


class FailingRecording(PlayedRecording):
    """Cannot be recorded."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self._message = message

    def record(self, compute: Compute) -> Outputs:
        raise RuntimeError(self._message)
