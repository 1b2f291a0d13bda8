"""The reader of images: what it reads exactly, and what it refuses by name."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from echo_synth.data.camus import CamusCase
from echo_synth.data.nifti import read_image, write_image
from echo_synth.data.pair import read_case
from echo_synth.data.png import pack_grey_png, read_grey_png, read_png
from echo_synth.errors import DataError
from echo_synth.types import CaseId


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 250, (96, 80)).astype(np.uint8)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mhd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_every_type_reads_as_itk_reads_it(tmp_path: Path, ending: str, dtype: str) -> None:
    path = tmp_path / f"x{ending}"
    written = sitk.GetImageFromArray(_pixels().astype(dtype))
    written.SetSpacing((0.4, 0.3))
    sitk.WriteImage(written, str(path), useCompression=ending in (".nii.gz", ".mha"))
    image = read_image(path)
    assert np.array_equal(image.pixels, _pixels())
    assert image.pixels.dtype == np.dtype(dtype)
    assert image.spacing == pytest.approx((0.3, 0.4))
    assert image.direction == pytest.approx(np.eye(3)[:, :2])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "f4", ">f4"])
def test_what_is_written_is_what_itk_writes(tmp_path: Path, ending: str, dtype: str) -> None:
    """Header and pixels byte for byte; only the compression may differ."""
    itk = sitk.GetImageFromArray(_pixels().astype(dtype.removeprefix(">")))
    itk.SetSpacing((0.4, 1 / 3))
    sitk.WriteImage(itk, str(tmp_path / "itk.nii"))
    write_image(tmp_path / f"x{ending}", _pixels().astype(dtype), (1 / 3, 0.4))
    data = (tmp_path / f"x{ending}").read_bytes()
    assert (gzip.decompress(data) if ending.endswith("gz") else data) == (tmp_path / "itk.nii").read_bytes()


def test_itk_and_nibabel_read_what_is_written(tmp_path: Path) -> None:
    import nibabel

    path = tmp_path / "x.nii.gz"
    write_image(path, _pixels().T, (0.3, 0.4))
    itk = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(itk), _pixels().T)
    assert itk.GetSpacing() == pytest.approx((0.4, 0.3))
    assert (itk.GetOrigin(), itk.GetDirection()) == ((0, 0), (1, 0, 0, 1))
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj), _pixels())  # columns come first there
    first = path.read_bytes()
    write_image(path, _pixels().T, (0.3, 0.4))
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("name", "pixels", "spacing", "error", "reason"),
    [
        ("x.nii.gz", _pixels(), (0.0, 0.4), DataError, "spacing 0 x 0.4 mm"),
        ("x.nii.gz", _pixels(), (float("nan"), 0.4), DataError, "spacing nan"),
        ("x.nii.gz", np.full((4, 4), np.nan, np.float32), (0.3, 0.4), DataError, "16 pixels are NaN"),
        ("x.nii.gz", np.zeros((0, 4), np.uint8), (0.3, 0.4), DataError, "expected a 2-D image"),
        ("x.nii.gz", np.zeros((1, 40000), np.uint8), (0.3, 0.4), TypeError, "at most 32767"),
        ("x.nii.gz", _pixels().astype(np.float64), (0.3, 0.4), TypeError, "float64"),
        ("x.nii.gz", _pixels()[None], (0.3, 0.4), DataError, "expected a 2-D image"),
        ("x.png", _pixels(), (0.3, 0.4), ValueError, r"\.nii\.gz"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, name: str, pixels: np.ndarray, spacing: tuple[float, float], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        write_image(tmp_path / name, pixels, spacing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (96, 80)])
def test_packed_pictures_read_as_they_were(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(pack_grey_png(pixels))
    assert np.array_equal(read_png(path), pixels)
    with Image.open(path) as opened:
        opened.verify()  # checksums of the chunks


def test_scaled_pixels_and_big_endian_headers(tmp_path: Path) -> None:
    import nibabel

    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_shape((80, 96))
    header.set_data_dtype(np.int16)
    header["pixdim"][1:3] = 0.4, 0.3
    header["scl_slope"], header["scl_inter"], header["vox_offset"], header["magic"] = 2, 1, 352, b"n+1"
    (tmp_path / "x.nii").write_bytes(header.binaryblock + bytes(4) + _pixels().astype(">i2").tobytes())
    assert np.array_equal(read_image(tmp_path / "x.nii").pixels, _pixels() * 2.0 + 1)


def _header(form: str, at: int, *values: object) -> Callable[[bytearray], bytes]:
    def change(data: bytearray) -> bytes:
        struct.pack_into(form, data, at, *values)
        return bytes(data)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: bytes(b[: len(b) // 2]), "damaged"),
        (lambda b: bytes(b[:200]), "less than a NIfTI header"),
        (lambda b: bytes(b) + bytes(1 << 24), "far more than its header promises"),
        (_header("<8h", 40, 3, 80, 96, 2, 1, 1, 1, 1), "expected a 2-D image"),
        (_header("<8h", 40, 2, 32767, 32767, 1, 1, 1, 1, 1), "expected at most"),
        (_header("<h", 40, 9), "damaged|axes"),
        (_header("<2h", 70, 32, 64), "expected real numbers"),
        (_header("<2h", 70, 128, 24), "expected real numbers"),
        (_header("<h", 72, 16), "16 bits a pixel"),
        (_header("<f", 108, float("inf")), "would begin at byte inf"),
        (_header("<2f", 80, 0.0, 0.0), "spacing 0 x 0 mm"),
        (_header("<2f", 80, float("nan"), 0.3), "spacing 0.3 x nan mm"),
        (_header("<f", 112, float("inf")), "scaled by inf"),
        (_header("<f", 300, -float("inf")), "its orientation"),
        (_header("4s", 344, b"ni1\0"), "no NIfTI-1 header"),
        (_header("<f", 500, float("nan")), "1 pixels are NaN"),
    ],
)
def test_headers_that_lie_are_refused_by_name(
    tmp_path: Path, change: Callable[[bytearray], bytes], reason: str
) -> None:
    write_image(tmp_path / "x.nii", _pixels().astype(np.float32), (0.3, 0.4))
    damaged = change(bytearray((tmp_path / "x.nii").read_bytes()))
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(damaged, 1))
    with pytest.raises(DataError, match=reason) as caught:
        read_image(tmp_path / "x.nii.gz")
    assert str(caught.value).startswith(str(tmp_path / "x.nii.gz"))


def test_a_cut_compression_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "x.nii.gz", _pixels(), (0.3, 0.4))
    whole = (tmp_path / "x.nii.gz").read_bytes()
    for length in (0, 10, len(whole) // 4, len(whole) - 4):
        (tmp_path / "x.nii.gz").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.nii\.gz"):
            read_image(tmp_path / "x.nii.gz")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("ElementDataFile = ../x.raw", "outside its folder"),
        ("ElementDataFile = /dev/zero", "outside its folder"),
        ("NDims = 99999\nElementDataFile = x.raw", "NDims is 99999"),
        ("DimSize = 80 97 1\nElementDataFile = x.raw", "promises 7760"),
        ("ElementSpacing = 0 0 1\nElementDataFile = x.raw", "spacing 0 x 0 mm"),
        ("ElementNumberOfChannels = 3\nElementDataFile = x.raw", "ElementNumberOfChannels is '3'"),
        ("TransformMatrix = 0 0 0 0 0 0 0 0 0\nElementDataFile = x.raw", "TransformMatrix"),
        ("CompressedData = True\nElementDataFile = x.raw", "damaged"),
    ],
)
def test_metaimage_headers_that_lie_are_refused(tmp_path: Path, lines: str, reason: str) -> None:
    folder = tmp_path / "patient"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "x.raw").write_bytes(_pixels().tobytes())
    usual = {"NDims": "3", "DimSize": "80 96 1", "ElementSpacing": "0.4 0.3 1", "ElementType": "MET_UCHAR"}
    given = dict(line.split(" = ") for line in lines.splitlines())
    (folder / "x.mhd").write_text("".join(f"{k} = {v}\n" for k, v in (usual | given).items()))
    with pytest.raises(DataError, match=reason):
        read_image(folder / "x.mhd")


def _case(folder: Path) -> CamusCase:
    return CamusCase(CaseId("patient0001", "2CH", "ED"), folder / "i.nii.gz", folder / "m.nii.gz")


def _write_case(
    folder: Path, image: np.ndarray, mask: np.ndarray, spacing: tuple[float, float] = (0.5, 0.6)
) -> CamusCase:
    case = _case(folder)
    write_image(case.image, image, spacing)
    write_image(case.mask, mask, spacing)
    return case


def _mask() -> np.ndarray:
    mask = np.zeros((96, 80), np.float32)
    mask[30:60, 30:50], mask[60:70, 30:50], mask[20:30, 30:50] = 1, 3, 2
    return mask


def test_labels_that_are_almost_whole_are_rounded(tmp_path: Path) -> None:
    image = _pixels()
    image[:4] = 0  # beside the sector
    _, mask = read_case(_write_case(tmp_path, image, _mask() + np.float32(4e-4)))
    assert np.array_equal(mask.pixels, _mask())
    with pytest.raises(DataError, match=r"m\.nii\.gz: label 0\.004"):
        read_case(_write_case(tmp_path, image, _mask() + np.float32(4e-3)))


@pytest.mark.parametrize(
    ("image", "spacing", "reason"),
    [
        (_pixels() / np.float32(255), (0.5, 0.6), "must be scaled back"),
        (_pixels() * np.float32(2), (0.5, 0.6), "expected 0 to 255"),
        (_pixels() - np.float32(10), (0.5, 0.6), "expected 0 to 255"),
        (_pixels(), (1.0, 1.0), "1 x 1 mm"),
        (_pixels(), (30.0, 30.0), "is its spacing in millimetres"),
        (_pixels(), (0.0005 * 10, 0.5), "is its spacing in millimetres"),
    ],
)
def test_images_that_are_no_echo_are_refused(
    tmp_path: Path, image: np.ndarray, spacing: tuple[float, float], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read_case(_write_case(tmp_path, image, _mask(), spacing))


@pytest.mark.parametrize("direction", [(1, 0, 0, -1), (-1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, 1, 0)])
def test_a_mask_that_lies_another_way_is_refused(tmp_path: Path, direction: tuple[float, ...]) -> None:
    case = _write_case(tmp_path, _pixels(), _mask())
    turned = sitk.GetImageFromArray(_mask())
    turned.SetSpacing((0.6, 0.5))
    turned.SetDirection(direction)
    sitk.WriteImage(turned, str(case.mask))
    with pytest.raises(DataError, match=r"m\.nii\.gz: its direction"):
        read_case(case)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_black(mode: str, tmp_path: Path) -> None:
    grey, alpha = Image.fromarray(np.full((2, 3), 200, np.uint8)), np.array([[255, 255, 0], [0, 255, 255]], np.uint8)
    image = grey.convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_grey_png(tmp_path / "x.png"), np.where(alpha, 200, 0))


def test_a_transparent_colour_of_a_palette_is_black(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 100, 100, 100])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    assert read_grey_png(tmp_path / "p.png").tolist() == [[0, 100]]


def test_sixteen_bits_of_colour_are_not_cut_in_silence(tmp_path: Path) -> None:
    header = struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)  # one pixel of three channels
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes([0, 15, 255, 15, 255, 15, 255]))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with pytest.raises(DataError, match=r"c\.png: is 16-bit colour, expected 8 bits a channel"):
        read_grey_png(tmp_path / "c.png")
