"""Images of odd depths, colors and metadata, against what their samples are."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import odd
import pytest
import skimage
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sae import files, images, memory
from sae.errors import SaeError

QUICKLY = settings(max_examples=40, deadline=None)
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
DISPLAY_P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def quiet(source, **options):
    """Reads an image without its warnings; checks its size, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = images.read(source, **options)
        assert images.size(source) == image.shape[1::-1]
    return image


def warned(source, **options):
    """Reads an image; returns it and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return images.read(source, **options), " ".join(str(one.message) for one in caught)


def converted(shares, exponent, primaries):
    """Returns shares [..., 3] of a space with a white of D65 as 0 to 255 of sRGB."""

    def matrix(points):
        xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(points[::2], points[1::2])])
        return xyz[1:].T * np.linalg.solve(xyz[1:].T, xyz[0])

    light = shares**exponent @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def encoded(picture, format="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_odd_files_show_what_their_samples_are():
    count = 0
    for name, file, shares in odd.files():
        read = quiet(file)
        assert np.abs(read - 255 * shares).max() <= 1, name
        count += 1
    assert count >= 200


def test_files_of_other_packages_read_as_by_another_reader():
    count = 0
    for path in sorted((Path(skimage.__file__).parent / "data").iterdir()):
        if path.suffix not in images.SUFFIXES:
            continue
        with Image.open(path) as image:
            described = "icc_profile" in image.info
        if path.suffix == ".tif":
            other = tifffile.imread(path, key=0)
        else:
            other = imageio.imread(path, index=0)
        # What is behind a transparent one counts; profiles have tests of their own.
        if described or (other.ndim == 3 and other.shape[2] == 4):
            continue
        other = other if other.ndim == 3 else other[..., None]
        assert np.abs(quiet(path) - other.astype(int)).max() <= 1, path
        count += 1
    assert count >= 15


@QUICKLY
@given(st.data())
def test_the_transparent_color_of_a_png_is_compared_at_its_depth(data):
    color_type = data.draw(st.sampled_from([0, 2]))
    depth = data.draw(st.sampled_from([1, 2, 4, 8, 16] if color_type == 0 else [8, 16]))
    most, components = (1 << depth) - 1, odd.COMPONENTS[color_type]
    shape = (*data.draw(st.tuples(st.integers(1, 4), st.integers(1, 9))), components)
    near = data.draw(st.integers(1, most))
    # Samples that differ in the lowest bit alone are not the same.
    samples = np.random.default_rng(near).integers(near - 1, near, shape, np.int64, endpoint=True)
    value = np.full(components, near)
    trns = odd.chunk(b"tRNS", struct.pack(f">{components}H", *value))
    clear = (samples == value).all(axis=2)
    file = odd.png(samples, depth, color_type, trns)
    if clear.any():
        with pytest.raises(SaeError, match="--background"):
            images.read(file)
    read = quiet(file, background="#0000ff")
    np.testing.assert_array_equal(read[clear], np.tile([0, 0, 255], (clear.sum(), 1)))
    shown = np.broadcast_to(255 * samples / most, read.shape)
    assert np.abs(read - shown)[~clear].max(initial=0) <= 1


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_lost_bits_are_said(depth):
    samples = np.full((2, 3), 1 << (depth - 1))
    file = odd.tiff_gray(samples, 12) if depth == 12 else odd.pnm(samples, (1 << depth) - 1, False)
    assert f"{depth} bits per sample; 8 are kept" in warned(file)[1]


@pytest.mark.parametrize(
    ("samples", "options", "reason"),
    [
        (np.zeros((4, 5), np.int8), {}, "signed samples of 8 bits"),
        (np.zeros((4, 5), np.int16), {}, "signed samples of 16 bits"),
        (np.zeros((4, 5), np.uint32), {"byteorder": ">"}, "32 bits"),
        (np.zeros((4, 5), np.float16), {}, "floating-point samples of 16 bits"),
        (np.zeros((4, 5), np.float32), {}, "floating-point samples of 32 bits"),
        (np.zeros((4, 5), np.float64), {}, "floating-point samples of 64 bits"),
        (
            np.zeros((3, 4, 5), np.uint16),
            {"photometric": "rgb", "planarconfig": "separate"},
            "planes of their own",
        ),
        (np.zeros((16, 16, 3), np.uint8), {"photometric": "ycbcr", "tile": (16, 16)}, "YCbCr"),
        (
            np.zeros((4, 5), np.uint16),
            {"photometric": "miniswhite", "byteorder": ">"},
            "photometric interpretation 0",
        ),
    ],
)
def test_samples_that_are_not_read_are_refused_as_what_they_are(samples, options, reason):
    options = {"photometric": "minisblack", **options}
    for function in (images.read, images.size):
        with pytest.raises(SaeError, match=reason):
            function(odd.tiff(samples, **options))


@pytest.mark.parametrize("depth", [10, 14])
def test_a_tiff_of_a_depth_that_is_not_read_says_so(depth):
    with pytest.raises(SaeError, match=f"{depth} bits"):
        images.read(odd.tiff_gray(np.zeros((4, 5), int), depth))


def test_a_jpeg_of_12_bits_says_so(noise):
    data = bytearray(encoded(Image.fromarray(noise), "JPEG").getvalue())
    data[data.find(b"\xff\xc0") + 4] = 12
    with pytest.raises(SaeError, match="12-bit"):
        images.read(io.BytesIO(data))


@pytest.mark.parametrize("depth", [1, 2, 4, 7, 8, 10, 12, 16])
def test_jpeg_2000_scales_by_its_depth(depth):
    most = (1 << depth) - 1
    samples = np.random.default_rng(0).integers(0, most, (20, 24), np.int64, endpoint=True)
    # A codestream of a full depth becomes one of fewer bits by its header and its middle gray.
    kept = 8 if depth <= 8 else 16
    shifted = samples + (1 << (kept - 1)) - (1 << (depth - 1))
    picture = Image.fromarray(shifted.astype(np.uint8 if kept == 8 else np.uint16))
    data = bytearray(encoded(picture, "JPEG2000", no_jp2=True).getvalue())
    data[42] = depth - 1
    read, warning = warned(io.BytesIO(data))
    assert np.abs(read[..., 0] - 255 * samples / most).max() <= 1
    assert (f"{depth} bits" in warning) == (depth > 8)


@QUICKLY
@given(
    st.sampled_from([8, 16]),
    st.sampled_from([0, 2]),
    st.sampled_from([0.3, 1 / 1.8, 1.0, 1.6]),
    st.sampled_from([SRGB, DISPLAY_P3]),
    st.integers(0, 99),
)
def test_gamma_and_primaries_are_converted_at_full_depth(depth, color_type, gamma, points, seed):
    most, shape = (1 << depth) - 1, (3, 40, odd.COMPONENTS[color_type])
    samples = np.random.default_rng(seed).integers(0, most >> (seed % 5), shape)
    fixed = [round(value * 100_000) for value in (gamma, *points)]
    chunks = [odd.chunk(b"gAMA", struct.pack(">I", fixed[0]))]
    chunks.append(odd.chunk(b"cHRM", struct.pack(">8I", *fixed[1:])))
    read = quiet(odd.png(samples, depth, color_type, *chunks))
    shares = np.broadcast_to(samples / most, read.shape)
    expected = converted(shares, 100_000 / fixed[0], SRGB if color_type == 0 else points)
    assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        [odd.chunk(b"sRGB", b"\0"), odd.chunk(b"gAMA", struct.pack(">I", 100_000))],
        [odd.chunk(b"gAMA", struct.pack(">I", 45_455))],
        [
            odd.chunk(b"gAMA", struct.pack(">I", 45_455)),
            odd.chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * v) for v in SRGB))),
        ],
        [odd.chunk(b"cICP", bytes([1, 13, 0, 1])), odd.chunk(b"gAMA", bytes([0, 1, 0, 0]))],
    ],
)
def test_a_description_of_srgb_changes_nothing(noise, chunks):
    read, warning = warned(odd.png(noise, 8, 2, *chunks))
    np.testing.assert_array_equal(read, noise)
    assert not warning


@pytest.mark.parametrize(
    "chunks",
    [
        [odd.chunk(b"cICP", bytes([9, 16, 0, 1]))],
        [odd.chunk(b"cICP", bytes([1, 13, 1, 0]))],
        [odd.chunk(b"gAMA", bytes(4))],
        [odd.chunk(b"cHRM", bytes(32))],
        [odd.chunk(b"cHRM", struct.pack(">8I", *[33_333] * 8))],
        [odd.chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))],
        [odd.chunk(b"iCCP", b"x\0\0not compressed")],
    ],
)
def test_a_description_that_cannot_be_used_is_said(noise, chunks):
    read, warning = warned(odd.png(noise, 8, 2, *chunks))
    np.testing.assert_array_equal(read, noise)
    assert "taken for sRGB" in warning


def test_code_points_of_png_are_converted(noise):
    read = quiet(odd.png(noise, 8, 2, odd.chunk(b"cICP", bytes([12, 8, 0, 1]))))
    assert np.abs(read - converted(noise / 255, 1.0, DISPLAY_P3)).max() <= 1


def bmp(samples, space, points=(0,) * 9, exponents=(0, 0, 0), profile=b""):
    """Writes samples [H, W, 3] as a BMP of version 5 with a color space."""
    height, width = samples.shape[:2]
    rows = b"".join(row[:, ::-1].tobytes() + bytes(-3 * width % 4) for row in samples[::-1])
    begin = 14 + 124
    head = struct.pack("<2sIII", b"BM", begin + len(rows) + len(profile), 0, begin)
    head += struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    head += struct.pack("<4I4s9I3I", 0, 0, 0, 0, space, *points, *exponents)
    head += struct.pack("<4I", 4, 124 + len(rows), len(profile), 0)
    return io.BytesIO(head + rows + profile)


def test_colors_of_bmp_are_converted_or_said(noise):
    np.testing.assert_array_equal(quiet(bmp(noise, b"BGRs")), noise)
    np.testing.assert_array_equal(quiet(bmp(noise, bytes(4))), noise)
    white, red, green, blue = (np.array(DISPLAY_P3[k : k + 2]) for k in (0, 2, 4, 6))
    matrix = np.array([[*p, 1 - sum(p)] for p in (red, green, blue)])
    whole = np.array([*white, 1 - sum(white)]) / white[1]
    points = (matrix * np.linalg.solve(matrix.T, whole)[:, None] * 2**30).astype(int).ravel()
    expected = converted(noise / 255, 1.8, DISPLAY_P3)
    for exponent in (1.8, 1 / 1.8):
        found = quiet(bmp(noise, bytes(4), points, [round(exponent * 2**16)] * 3))
        assert np.abs(found - expected).max() <= 1
    chromaticities = (matrix * 2**30).astype(int).ravel()
    found = quiet(bmp(noise, bytes(4), chromaticities, [round(1.8 * 2**16)] * 3))
    assert np.abs(found - expected).max() <= 1
    assert "taken for sRGB" in warned(bmp(noise, bytes(4), points, [1 << 16, 2 << 16, 1 << 16]))[1]
    assert "taken for sRGB" in warned(bmp(noise, b"KNIL"))[1]
    assert "taken for sRGB" in warned(bmp(noise, b"DEBM", profile=b"no profile"))[1]


def test_code_points_of_avif_are_converted_or_said(noise):
    flat = Image.new("RGB", (16, 16), (200, 60, 40))
    data = encoded(flat, "AVIF", quality=100, subsampling="4:4:4").getvalue()
    plain, warning = warned(io.BytesIO(data))
    assert not warning
    at = data.find(b"nclx") + 4
    linear = data[:at] + struct.pack(">HH", 12, 8) + data[at + 4 :]
    expected = converted(plain / 255, 1.0, DISPLAY_P3)
    assert np.abs(quiet(io.BytesIO(linear)) - expected).max() <= 1
    bright = data[:at] + struct.pack(">HH", 12, 16) + data[at + 4 :]
    assert "taken for sRGB" in warned(io.BytesIO(bright))[1]


def test_a_profile_is_judged_by_what_it_does(noise):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = srgb.find(b"para\0\0\0\0\0\x03") + 12
    one = struct.pack(">i", 1 << 16)
    linear = srgb[:at] + one + one + bytes(4) + one + bytes(4) + srgb[at + 20 :]
    read = quiet(encoded(Image.fromarray(noise), icc_profile=linear))
    assert np.abs(read - converted(noise / 255, 1.0, SRGB)).max() <= 1
    renamed = srgb.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    np.testing.assert_array_equal(
        quiet(encoded(Image.fromarray(noise), icc_profile=renamed)), noise
    )
    # A picture that is gray has the gray of a profile of colors.
    gray = quiet(encoded(Image.fromarray(noise[..., 0]), icc_profile=linear))
    assert np.abs(gray - converted(noise[..., :1] / 255 * np.ones(3), 1.0, SRGB)).max() <= 1


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_profiles_of_gray_are_exact_in_the_dark(gamma):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    profile = odd.gray_profile(gamma)
    expected = converted(gray[..., None] / 255 * np.ones(3), gamma, SRGB)
    for picture in (gray, gray.astype(np.uint16) * 257):
        read = quiet(encoded(Image.fromarray(picture), icc_profile=profile))
        assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("space", [1, 2, 0xFFFF])
def test_exif_that_contradicts_srgb_counts(format, space):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    options = {"quality": 100} if format == "JPEG" else {"lossless": True}
    file = encoded(Image.new("RGB", (16, 16), (200, 60, 40)), format, exif=exif, **options)
    plain = np.asarray(Image.open(file))
    read, warning = warned(file)
    primaries = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    expected = converted(plain / 255, 563 / 256, primaries) if space == 2 else plain
    assert np.abs(read - expected).max() <= 1
    assert bool(warning) == (space == 0xFFFF)


def test_a_background_is_not_converted(noise):
    samples = np.dstack([noise, np.zeros(noise.shape[:2], np.uint8)])
    file = odd.png(samples, 8, 6, odd.chunk(b"gAMA", struct.pack(">I", 100_000)))
    assert (quiet(file, background="#406080") == [0x40, 0x60, 0x80]).all()


@pytest.mark.parametrize(
    "chunks",
    [
        [odd.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 22)))],
        [odd.chunk(b"tEXt", b"Comment\0" + bytes(1 << 20))] * 70,
        [odd.chunk(b"tEXt", b"Comment\0text")[:-1] + b"?"],
        [odd.chunk(b"eXIf", b"nonsense")],
        [odd.chunk(b"eXIf", b"II*\0\x08\0\0\0")[:-1] + b"?"],
        [odd.chunk(b"gAMA", b"")],
        [odd.chunk(b"acTL", b"")],
        [odd.chunk(b"zTXt", b"Raw profile type exif\0\0no")],
    ],
)
def test_damaged_metadata_of_a_png_leaves_its_pixels(noise, chunks):
    np.testing.assert_array_equal(quiet(odd.png(noise, 8, 2, *chunks)), noise)


@QUICKLY
@given(st.sampled_from(["JPEG", "WEBP", "AVIF", "TIFF"]), st.randoms(use_true_random=False))
def test_damaged_exif_leaves_the_pixels(format, random):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "maker"
    exif.get_ifd(0x8769)[0xA001] = 1
    data = bytearray(encoded(Image.new("RGB", (9, 7)), format, exif=exif).getvalue())
    start = data.find(b"MM\0*") if format != "TIFF" else data.find(b"maker")
    for _ in range(random.choice((1, 8, 40))):
        length = len(exif.tobytes()) - 6 if format != "TIFF" else 5
        data[start + random.randrange(length)] = random.randrange(256)
    assert sorted(quiet(io.BytesIO(data)).shape) == [3, 7, 9]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_has_the_size_that_is_read(noise, orientation):
    picture = Image.fromarray(noise[:, :17])
    upright = quiet(encoded(picture, "TIFF", tiffinfo={0x0112: orientation}))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(upright, quiet(encoded(picture, exif=exif)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_a_rotated_tiff_is_read_alike_by_name_and_from_memory(noise, tmp_path, mode):
    picture = Image.fromarray(noise[:, :17]).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    upright = quiet(encoded(picture, "TIFF"))
    for orientation in range(1, 9):
        picture.save(tmp_path / "a.tif", tiffinfo={0x0112: orientation})
        found = quiet(tmp_path / "a.tif")
        np.testing.assert_array_equal(found, images._turned(upright, orientation))


def test_a_palette_of_8_bits_in_a_tiff(tmp_path):
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)]).astype(np.uint16)
    for scale in (1, 257):
        tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table * scale)
        np.testing.assert_array_equal(quiet(tmp_path / "a.tif"), table.T[indices])


def test_a_reduced_first_picture_is_said(noise, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise, subfiletype=1, subifds=1)
        file.write(np.repeat(np.repeat(noise, 2, 0), 2, 1))
    _, notes = warned(tmp_path / "a.tif")
    assert "reduced size" in notes


def test_the_size_of_a_png_needs_no_pixels(noise):
    whole = odd.png(noise, 8, 2).getvalue()
    assert images.size(io.BytesIO(whole[:60])) == (30, 20)


def test_more_than_the_memory_is_refused_before_it_is_decoded(noise, monkeypatch):
    header_only = io.BytesIO(odd.png(noise, 8, 2).getvalue()[:60])
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(SaeError, match="memory"):
        images.read(header_only)


def test_a_lack_of_memory_is_no_damage(noise, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(SaeError, match="memory") as caught:
        images.read(odd.png(noise, 8, 2))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "name"),
    [("0::/a/b", "memory.max"), ("4:cpu,memory:/a/b", "memory.limit_in_bytes")],
)
@pytest.mark.parametrize("group", ["a/b", "a", ""])
def test_limits_of_control_groups_count(tmp_path, monkeypatch, line, name, group):
    (tmp_path / "cgroup").write_text(f"9:pids:/\n{line}\n")
    root = tmp_path / ("" if name == "memory.max" else "memory")
    for folder in ("a/b", "a", ""):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_text("max\n")
    (root / group / name).write_text("12345678\n")
    (tmp_path / "statm").write_text("9 0 0")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert memory.available() == 12345678


def test_the_limit_of_the_address_space_counts(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 20_000)).save(path)
    code = (
        "import resource, sys; from sae import images\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try: images.read(sys.argv[1])\n"
        "except images.SaeError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "memory" in run.stdout, run.stderr
    assert str(path) in run.stdout


def test_pillows_limit_stays_and_does_not_count(noise, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = {
        format: encoded(Image.fromarray(noise), format).getvalue()
        for format in ("PNG", "TIFF", "GIF", "JPEG")
    }
    failures = []

    def read(content):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                assert images.read(io.BytesIO(content)).shape == noise.shape
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(one,)) for one in [*data.values()] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(SaeError):
        images.read(io.BytesIO(b"no image"))
    assert Image.MAX_IMAGE_PIXELS == 10


def test_all_suffixes_of_photos_are_found(tmp_path):
    names = ["a.jfif", "b.jpe", "c.j2k", "d.TGA", "e.pbm", "f.jpg"]
    for name in [*names, "._f.jpg", "notes.txt"]:
        (tmp_path / name).touch()
    assert [path.name for path in images.find(tmp_path)] == names


@pytest.mark.parametrize(
    "name", ["字" * 82 + ".sae", "a" * 255, "a" * 250 + ".png", "a." + "b" * 250]
)
def test_names_as_long_as_a_name_may_be_are_written(tmp_path, name):
    files.write_bytes(tmp_path / name, b"data")
    assert [path.name for path in tmp_path.iterdir()] == [name]
