"""Features of slices for distances between populations, and the perceptual distance.

Loads the networks of `models.extractors`; imports torch only when one is made. Knows no run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import WeightsError
from engine.evaluation.distribution.protocol import VIEWS, SliceProtocol, slices_of, squared
from engine.evaluation.distribution.radiomics import slice_features
from engine.evaluation.subject import Scan
from models.errors import WeightsFileError

RADIOMICS = "radiomics"
_BATCH = 8
_MIN_BODY_PX = 50


class SliceFeatures:
    """Slices of three views to features of one network, and of axial slices to radiomics.

    Attributes:
        name: of the network; "" is none, and then only radiomics are taken.
        sha256: of its weights.
        absent: why there is no network.

    Raises:
        WeightsError: its file is not what it should be.
    """

    def __init__(
        self, protocol: SliceProtocol, extractor: Any, path: Path | None, sha256: str
    ) -> None:
        from models.extractors.load import AbsentError, load_extractor

        self._protocol = protocol
        self.name, self.sha256, self.absent = "", "", ""
        try:
            self._extractor = load_extractor(extractor, path, sha256)
            self.name, self.sha256 = self._extractor.name, self._extractor.sha256
        except AbsentError as error:
            self.absent = str(error)
        except WeightsFileError as error:
            raise WeightsError(str(error)) from None

    def __call__(self, scan: Scan) -> dict[str, NDArray[np.float32]]:
        """Of one volume: `{view or "radiomics": n c}`; views without a slice are left out."""
        found: dict[str, NDArray[np.float32]] = {}
        if self.name:
            for view in VIEWS:
                planes = list(slices_of(scan.image, scan.body, view, self._protocol))
                if planes:
                    found[view] = self._network(planes)
        rows = [slice_features(*pair) for pair in self._axial(scan)]
        if rows:
            found[RADIOMICS] = np.stack(rows).astype(np.float32)
        return found

    def _axial(self, scan: Scan) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        images = slices_of(scan.image, scan.body, "axial", self._protocol)
        bodies = slices_of(scan.body.astype(np.float32), scan.body, "axial", self._protocol)
        for image, body in zip(images, bodies, strict=True):
            if np.count_nonzero(body) >= _MIN_BODY_PX:
                yield image, body > 0

    def _network(self, planes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        import torch

        parts = []
        for first in range(0, len(planes), _BATCH):
            batch = [squared(p, self._protocol.size_px) for p in planes[first : first + _BATCH]]
            grey = torch.from_numpy((np.stack(batch) + 1.0) / 2.0)
            parts.append(self._extractor.features(grey[:, None].expand(-1, 3, -1, -1)).numpy())
        return np.concatenate(parts)


class Perceptual:
    """ST-LPIPS of axial slices with body.

    Attributes:
        absent: why there is none; "" is present.
        sha256: of its weights.

    Raises:
        WeightsError: its file is not what it should be.
    """

    def __init__(self, protocol: SliceProtocol, path: Path | None) -> None:
        from models.extractors.load import AbsentError, load_st_lpips

        self._protocol, self.absent, self.sha256 = protocol, "", ""
        try:
            self._network, self.sha256 = load_st_lpips(path)
        except AbsentError as error:
            self.absent = str(error)
        except WeightsFileError as error:
            raise WeightsError(str(error)) from None

    def __call__(self, made: Scan, real: Scan) -> float | None:
        """Mean over the slices; None without a slice."""
        import torch

        pairs = [
            list(slices_of(scan.image, real.body, "axial", self._protocol)) for scan in (made, real)
        ]
        if not pairs[0] or self.absent:
            return None
        distances = []
        with torch.no_grad():
            for first in range(0, len(pairs[0]), _BATCH):
                one, other = (
                    torch.from_numpy(np.stack(p[first : first + _BATCH]))[:, None] for p in pairs
                )
                distances.append(self._network(one, other).numpy())
        return float(np.concatenate(distances).mean())
