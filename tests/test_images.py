"""Reading images of every kind as the 8-bit sRGB that a viewer would show."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from sae import images
from sae.errors import SaeError


@pytest.fixture(scope="module")
def photo():
    """A photo, uint8 [45, 60, 3], neither square nor a multiple of 16."""
    return images.sample_photos()["chelsea"][100:145, 200:260]


def encoded(picture: Image.Image, format="PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, format, **options)
    file.seek(0)
    return file


def test_rgb_comes_as_it_is(photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    for source in (path, str(path), encoded(Image.fromarray(photo))):
        np.testing.assert_array_equal(images.read(source), photo)
    assert images.size(path) == (60, 45)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(photo, mode):
    picture = Image.fromarray(photo).convert(mode)
    read = images.read(encoded(picture, "TIFF"))
    assert (read.shape, read.dtype) == ((45, 60, 3), np.uint8)
    np.testing.assert_array_equal(read, np.asarray(picture.convert("RGB")))


def test_16_bit_grey_keeps_the_upper_8_and_says_so(photo):
    grey = photo[..., 0].astype(np.uint16) * 256 + 201
    with pytest.warns(UserWarning, match="16 bits"):
        read = images.read(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(read, np.repeat(photo[..., :1], 3, axis=2))


def test_16_bit_color_keeps_the_upper_8_and_says_so(photo):
    # Pillow writes no such file, so this one is put together by hand.
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    samples = (photo.astype(">u2") * 256 + 99).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 45, 16, 2, 0, 0, 0))
    file += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.warns(UserWarning, match="16 bits"):
        read = images.read(io.BytesIO(file))
    np.testing.assert_array_equal(read, photo)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.filterwarnings("ignore:.*16 bits")
def test_orientation_is_honoured(photo, orientation, depth):
    grey = photo[..., 0] if depth == 8 else photo[..., 0].astype(np.uint16) * 256
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(grey), exif=exif)
    upright = Image.fromarray(photo[..., 0])
    upright.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(images.read(file)[..., 0], upright)
    file.seek(0)
    assert images.size(file) == upright.shape[::-1]


def test_color_profile_is_converted_to_srgb(photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(
        images.read(encoded(Image.fromarray(photo), icc_profile=srgb)), photo
    )
    # The same profile with its red and blue primaries exchanged, under another name.
    exchanged = srgb.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    exchanged = exchanged.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ")
    exchanged = exchanged.replace(b"????", b"bXYZ")
    read = images.read(encoded(Image.fromarray(photo), icc_profile=exchanged))
    np.testing.assert_allclose(read[..., ::-1].astype(int), photo, atol=2)


def test_broken_color_profile_is_said_and_ignored(photo):
    file = encoded(Image.fromarray(photo), icc_profile=b"not a profile")
    with pytest.warns(UserWarning, match="color profile"):
        np.testing.assert_array_equal(images.read(file), photo)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_needs_a_background(photo, mode):
    picture = Image.fromarray(photo).convert("P" if mode == "PA" else mode)
    if mode != "PA":
        picture.putpixel((3, 4), (9,) * (len(mode) - 1) + (0,))
    options = {"transparency": picture.getpixel((3, 4))} if mode == "PA" else {}
    with pytest.raises(SaeError, match="--background"):
        images.read(encoded(picture, **options))
    with pytest.raises(SaeError, match="no opaque color"):
        images.read(encoded(picture, **options), background="nonsense")
    flat = images.read(encoded(picture, **options), background="#00ff00")
    np.testing.assert_array_equal(flat[4, 3], [0, 255, 0])
    assert images.size(encoded(picture, **options)) == picture.size


def test_an_alpha_channel_that_hides_nothing_is_dropped(photo):
    picture = Image.fromarray(photo).convert("RGBA")
    np.testing.assert_array_equal(images.read(encoded(picture)), photo)


def test_a_background_keeps_orientation(photo):
    picture = Image.fromarray(photo).convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = images.read(encoded(picture, exif=exif), background="white")
    assert flat.shape == (60, 45, 3)
    np.testing.assert_array_equal(flat[0, -1], [255, 255, 255])


def test_further_frames_are_said_to_be_left_out(photo):
    frames = [Image.fromarray(photo).quantize(), Image.fromarray(255 - photo).quantize()]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="2 frames; the first"):
        found = images.read(file)
    np.testing.assert_array_equal(found, np.asarray(frames[0].convert("RGB")))


def test_32_bit_samples_are_refused(photo):
    picture = Image.fromarray(photo[..., 0].astype(np.float32))
    with pytest.raises(SaeError, match="32 bits"):
        images.read(encoded(picture, "TIFF"))


def test_a_file_is_named_in_errors(tmp_path):
    (tmp_path / "text.png").write_text("This is no image.")
    (tmp_path / "empty.png").touch()
    for name, message in [
        ("text.png", "known format"),
        ("empty.png", "known format"),
        ("absent.png", "No such file"),
        (".", "directory"),
    ]:
        with pytest.raises(SaeError, match=message) as caught:
            images.read(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_truncated_file_is_refused(photo):
    whole = encoded(Image.fromarray(photo)).getvalue()
    for size in range(8, len(whole) - 60, 101):
        with pytest.raises(SaeError):
            images.read(io.BytesIO(whole[:size]))


def test_the_limit_of_pixels_is_checked_before_decoding(photo):
    whole = encoded(Image.fromarray(photo)).getvalue()
    header_only = whole[:60]
    with pytest.raises(SaeError, match="limit of 100"):
        images.read(io.BytesIO(header_only), max_pixels=100)
    images.read(io.BytesIO(whole), max_pixels=60 * 45)


def test_larger_than_pillow_allows_by_itself():
    # 196 megapixels are past Pillow's own limit.
    picture = Image.new("1", (14_000, 14_000))
    assert images.size(encoded(picture)) == (14_000, 14_000)


def test_threads_read_the_same(photo, tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo).save(path)
    expected, found = images.read(path), []
    threads = [threading.Thread(target=lambda: found.append(images.read(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(image, expected) for image in found)


def test_find_lists_images_sorted(tmp_path, photo):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "sub/c.png"):
        (tmp_path / name).touch()
    assert images.find(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    assert images.find(tmp_path, recursive=True)[-1] == tmp_path / "sub" / "c.png"


def test_find_refuses_a_folder_without_images(tmp_path):
    with pytest.raises(SaeError, match="no image"):
        images.find(tmp_path)
    with pytest.raises(SaeError, match="not a folder"):
        images.find(tmp_path / "absent")


def test_png_round_trip(photo, tmp_path):
    images.write_png(photo, tmp_path / "new" / "photo.png")
    np.testing.assert_array_equal(images.read(tmp_path / "new" / "photo.png"), photo)
    file = io.BytesIO()
    images.write_png(photo, file)
    np.testing.assert_array_equal(images.read(file), photo)
    assert os.listdir(tmp_path / "new") == ["photo.png"]


def test_png_is_written_whole_or_not_at_all(photo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SaeError, match="Cannot write"):
        images.write_png(photo, tmp_path / "file" / "photo.png")
    with pytest.raises(SaeError, match="folder"):
        images.write_png(photo, tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 32), (45, 60)])
def test_padding_repeats_the_edge(photo, height, width):
    image = photo[:height, :width]
    padded = images.pad(image, 16)
    assert padded.shape == (-(-height // 16) * 16, -(-width // 16) * 16, 3)
    np.testing.assert_array_equal(padded[:height, :width], image)
    rows = np.minimum(np.arange(padded.shape[0]), height - 1)
    columns = np.minimum(np.arange(padded.shape[1]), width - 1)
    np.testing.assert_array_equal(padded, image[rows][:, columns])


def test_sample_photos_are_photos_and_need_no_download(monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("sample_photos used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photos = images.sample_photos()
    assert len(photos) >= 12
    for photo in photos.values():
        assert photo.dtype == np.uint8
        assert min(photo.shape[:2]) >= 256
        assert photo.shape[2] == 3
        assert len(np.unique(photo)) > 100
