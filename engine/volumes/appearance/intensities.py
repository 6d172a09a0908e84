"""Whether a volume holds the intensities its modality has: HU for CT, none of them for MR.

CT that lost its rescaling (stored values, 0..255, 0..1, z-scores) cannot be told from HU by a file
reader, and a window in HU makes a grey block of it. So it is judged by where air and soft tissue
lie, and refused only where that is clear: clipped, padded, cropped and metal-bearing CT passes.
Knows no file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import VolumeError
from engine.volumes.appearance.backgrounds import border_mode, border_values
from engine.volumes.prepare_config import PrepareConfig
from engine.volumes.volume import Array, Volume

_SAMPLE_VOXELS = 2_000_000
_OFFSETS = (1000, 1024, 8192, 32768, -1000, -1024)  # that converters leave out or apply twice
_WRAPPED = (63_000, 65_536)  # HU -2536 to -1 in unsigned 16 bit
_FULL_SCALES = (1000, 1023, 2047, 4095, 32767, 65535)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """Why intensities cannot be what they should be.

    Attributes:
        looks_like: what they are instead, as far as can be seen.
        evidence: numbers that show it.
        offset: value minus HU, where that is certain.
    """

    looks_like: str
    evidence: str
    offset: int | None = None


def rescaled(image: Volume, config: PrepareConfig) -> Volume:
    """The image with `config.rescale` applied: stored values become HU."""
    if config.rescale is None:
        return image
    slope, intercept = config.rescale
    array = (image.array.astype(np.float64) * slope + intercept).astype(np.float32)
    return Volume(array, image.affine, image.source, image.header)


def check_intensities(raw: Volume, config: PrepareConfig) -> tuple[str, ...]:
    """Refuse an image whose intensities are clearly not those of its modality.

    Args:
        raw: as read, `config.rescale` not yet applied.
        config: modality, rescale, and whether to look at all.

    Returns:
        What is doubtful and was let pass.

    Raises:
        VolumeError: they are not; says what they look like, by which evidence, and the remedy.
    """
    if config.intensities == "allow":
        return ()
    if config.modality == "mr":
        found = odd_mr(raw.array)
        if found is not None:
            raise VolumeError(
                f"{raw.source}: no MR: {found.looks_like} ({found.evidence}), but the data is MR; "
                "use a CT configuration (prepare_abdomen_ct.yaml), or --prepare.intensities allow"
            )
        return ()
    array = rescaled(raw, config).array
    found = odd_ct(array)
    if found is None:
        return _doubts(array)
    raise VolumeError(
        f"{raw.source}: no CT in HU: {found.looks_like} ({found.evidence}); "
        f"{_remedy(found, raw, config)}; --prepare.intensities allow takes it as it is"
    )


def _remedy(found: Finding, raw: Volume, config: PrepareConfig) -> str:
    if config.rescale is not None and odd_ct(raw.array) is None:
        return "it is in HU as stored: prepare it without --prepare.rescale, in a folder apart"
    if found.offset is not None and config.rescale is None:
        return f"give --prepare.rescale 1 {-found.offset} (HU = value {-found.offset:+d})"
    return (
        "convert it from DICOM with RescaleSlope and RescaleIntercept applied, or give these with "
        "--prepare.rescale SLOPE INTERCEPT"
    )


def _doubts(array: Array) -> tuple[str, ...]:
    low, high = float(array.min()), float(array.max())
    if low < -50 or np.mean(array == low) < 0.02:
        return ()
    return (
        f"no voxel is darker than {low:.4g} (values to {high:.4g}): fat and air are clipped away, "
        "or these are no HU; look at the image, and prepare it from its source if they are none",
    )


def odd_ct(array: Array) -> Finding | None:
    """Why a volume is no CT in HU, or None where it may be.

    Args:
        array: `z y x` intensities.
    """
    values, border = _without_padding(array)
    low, high = float(values.min()), float(values.max())
    evidence = (
        f"values {low:.4g} to {high:.4g}, {np.mean(values > -300):.0%} of them above -300 HU, "
        "where bodies begin"
    )
    found = _narrow(values, evidence) or _bytes(values, evidence)
    if found is not None:
        return found
    if _share(values, *_WRAPPED) > 0.05 and low >= 0:
        return Finding("negative values wrapped around in unsigned 16 bit", evidence)
    if _share(values, -1100, -850) > 0.01 and _share(values, -200, 300) > 0.01:
        return None  # air and soft tissue where they belong
    middle = _sampled(array[tuple(slice(n // 3, n - n // 3) for n in array.shape)])
    return _shifted(values, middle, evidence) or _without_air(values, border, evidence)


def odd_mr(array: Array) -> Finding | None:
    """Why a volume is CT and no MR, or None where it may be MR."""
    values, (mode, share) = _sampled(array), border_mode(array)
    air, soft = _share(values, -1100, -850), _share(values, -150, 250)
    evidence = f"{air:.0%} of the voxels at -1000 as air, {soft:.0%} at -150 to 250"
    rest = values[values != mode]
    measured = _share(rest, -1100, -850) > 0.03  # a padding of -1000 is one value
    if measured and soft > 0.05 and air + soft > 0.5:
        return Finding("looks like CT in HU", evidence)
    clipped = mode == float(array.min()) and -500 <= mode <= -100 and share > 0.3
    if clipped and rest.size and _share(rest, mode, 300) > 0.9 and _share(rest, -150, 150) > 0.6:
        return Finding("looks like CT clipped to a window", f"its background is {mode:g}")
    return None


def _narrow(values: Values, evidence: str) -> Finding | None:
    low, high = float(values.min()), float(values.max())
    but_metal = _spread(values, 0.1, 99.9) < 20 and _spread(values, 1, 99) > 0
    if high - low >= 20 and not but_metal:
        return None
    if low >= 0 and high <= 1.001:
        return Finding("looks like intensities scaled to 0 to 1", evidence)
    return Finding("looks like normalized intensities (z-scores or -1 to 1)", evidence)


def _bytes(values: Values, evidence: str) -> Finding | None:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= 10 or high > 255:
        return None
    found = Finding("looks like 8-bit grey values (0 to 255, from PNG or JPEG)", evidence)
    if (low, high) == (0, 255) or (high >= 245 and _share(values, low, low + 1) > 0.02):
        return found
    # a window so wide that bone stays below 255: noise of air, then nothing up to fat
    above = values[values > low]
    inside = above[above > low + 10]
    if inside.size == 0 or np.mean(values == low) < 0.05:
        return None
    middle = float(np.median(inside))
    valley = _share(above, 0.15 * middle, 0.6 * middle)
    air = _share(above, low, 0.1 * middle)
    return found if middle > 60 and air > 0.02 and valley < 0.1 else None


def _shifted(values: Values, middle: Values, evidence: str) -> Finding | None:
    """Air and soft tissue, 1000 apart as they should be, but elsewhere."""
    best = _best_offset(values)
    if best is None or abs(best) <= 100:
        return None
    air = values[(values > best - 1060) & (values < best - 930)]
    soft = values[(values > best - 150) & (values < best + 250)]
    if _share(middle, best - 1060, best - 930) > air.size / values.size + 0.1:  # dark inside
        return Finding("its border is brighter than the patient", evidence)
    air_at, sure = _air_peak(air, values.size)
    evidence = f"{evidence}; air at {air_at:.0f}, most of the body at {_peak(soft):.0f}"
    offset = min(_OFFSETS, key=lambda o: abs(air_at + 1000 - o))
    if abs(air_at + 1000 - offset) > 10 or not sure:
        return Finding(f"looks like HU {best:+d} or so, the rescaling left out", evidence)
    if offset < 0:
        return Finding(f"looks like HU - {-offset}, the intercept applied twice", evidence, offset)
    return Finding(f"looks like stored values (HU + {offset}), not rescaled", evidence, offset)


def _best_offset(values: Values) -> int | None:
    """The shift that puts a peak of air and a peak of soft tissue where they belong."""
    width = 8
    start = int(np.floor(values.min() / width) * width)
    counts = np.bincount(((np.clip(values, None, 70_000) - start) // width).astype(np.int64))
    cumulated = np.r_[0, np.cumsum(counts)] / values.size
    offsets = np.arange(start + 900, start + width * counts.size + 200, width)

    def share(low: int, high: int) -> Values:
        a, b = (np.clip((offsets + x - start) // width, 0, counts.size) for x in (low, high))
        return np.asarray(cumulated[b] - cumulated[a])

    air, soft, gap = share(-1048, -952), share(-152, 248), share(-704, -304)
    core = np.max([share(x, x + 160) for x in range(-152, 96, 24)], axis=0)
    fits = (air > 0.02) & (soft > 0.08) & (gap < soft / 3) & (core > 0.6 * soft)
    if not fits.any():
        return None
    return int(offsets[np.argmax(np.where(fits, np.minimum(air, core), 0.0))])


def _air_peak(air: Values, num_values: int) -> tuple[float, bool]:
    """Intensity of air, and whether it was measured: a floor that values were clipped to is not."""
    distinct, counts = np.unique(air, return_counts=True)
    spike = float(distinct[counts.argmax()])
    if counts.max() < 0.2 * air.size:
        return _peak(air), True
    measured = air[air != spike]
    if measured.size < 0.02 * num_values:
        return spike, spike not in (0.0, -24.0)  # -1000 or -1024: either may be a floor
    at = _peak(measured)
    return at, abs(at - spike) > 6 or bool(np.mean(measured < spike) > 0.2)


def _without_air(values: Values, border: Values, evidence: str) -> Finding | None:
    """Clipped, cropped, or something else altogether: judged by what is no background."""
    low, high = float(values.min()), float(values.max())
    mode = _mode(border)
    tissue = values[(values != mode) & (values > -500)]
    if tissue.size < 0.01 * values.size:
        lost = mode < -1900 and _share(values, -1250, -700) > 0.6 > 30 * _share(values, -200, 300)
        return Finding("looks like an intercept applied twice", evidence) if lost else None
    middle = float(np.median(tissue))
    evidence = f"{evidence}; the median of what is no background is {middle:.0f}"
    if middle > 700:
        looks = (
            "HU + 1000 or so, the rescaling left out"
            if middle < 1400
            else "stored or scaled values"
        )
        return Finding(f"looks like {looks}", evidence)
    if low < -50:
        return None
    if mode > 500 and np.mean(values == mode) > 0.02:
        return Finding("its border is brighter than the patient", evidence)
    if low == 0 and high in _FULL_SCALES and middle > 250:
        return Finding(f"looks like intensities scaled to 0 to {high:g}", evidence)
    clipped = np.mean(values == low) > 0.02 and middle <= 150
    if _spread(tissue, 1, 99) > 300 and not clipped:
        return Finding("nothing is as dark as fat or air: MR, or values scaled anew", evidence)
    return None


def _without_padding(array: Array) -> tuple[Values, Values]:
    """A sample of the voxels without what no detector measured, and the border's values."""
    values, border = _sampled(array), border_values(array).astype(np.float64)
    padding = [
        v for v in {_mode(border), float(values.min())} if v < -1100 and np.mean(values == v) > 1e-3
    ]
    kept = values[~np.isin(values, padding)]
    return (kept if kept.size else values), border


def _mode(values: Values) -> float:
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[counts.argmax()])


def _sampled(array: Array) -> Values:
    step = max(1, int(np.ceil((array.size / _SAMPLE_VOXELS) ** (1 / 3))))
    return array[::step, ::step, ::step].astype(np.float64).ravel()


def _share(values: Values, low: float, high: float) -> float:
    return float(np.mean((values >= low) & (values <= high)))


def _spread(values: Values, low: float, high: float) -> float:
    a, b = np.percentile(values, (low, high))
    return float(b - a)


def _peak(values: Values) -> float:
    """The mode of whole numbers, smoothed over five."""
    if not values.size:
        return float("nan")
    whole = np.rint(values).astype(np.int64)
    counts = np.bincount(whole - whole.min())
    return float(np.convolve(counts, np.ones(5), mode="same").argmax() + whole.min())
