"""Photos as phones, scanners and colleagues hand them over."""

from __future__ import annotations

import io
import struct
import sys
import types
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

import pasture
from geobiomass.training.packages import MissingPackageError
from pasture.loader import PhotoLoader, open_photo

GREEN, SOIL = (60, 140, 40), (150, 120, 70)
# Means of red, green and blue of both halves, as grey.
GREYS = (80, 113)


def halves(width: int = 200, height: int = 100) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = GREEN, SOIL
    return pixels


RGB = Image.fromarray(halves())
GREY = (halves().mean(2) / 255 * 65535).astype(np.uint16)


def colours_of(path: Path) -> list[tuple[int, ...]]:
    """Return the mean colours of the left and the right half of a photo."""
    pixels = np.asarray(open_photo(str(path))).astype(float)
    middle = pixels.shape[1] // 2
    parts = (pixels[:, :middle], pixels[:, middle:])
    return [tuple(int(v) for v in part.mean((0, 1)).round()) for part in parts]


def row(*names: object) -> pd.DataFrame:
    grams = {"Dry_Green_g": 10.0, "Dry_Dead_g": 5.0, "Dry_Clover_g": 1.0}
    return pd.DataFrame([{"image_path": str(name), **grams} for name in names])


def png_16(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG of 16 bits a channel, which Pillow does not write."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


# --- what is read right ---


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("plain.png", lambda path: RGB.save(path)),
        ("plain.jpg", lambda path: RGB.save(path, quality=95)),
        ("photo.webp", lambda path: RGB.save(path, lossless=True)),
        ("photo.bmp", lambda path: RGB.save(path)),
        ("photo.jp2", lambda path: RGB.save(path)),
        ("still.gif", lambda path: RGB.quantize(16).save(path)),
        ("plain.tif", lambda path: RGB.save(path)),
        ("palette.png", lambda path: RGB.quantize(16).save(path)),
        ("opaque.png", lambda path: RGB.convert("RGBA").save(path)),
        ("deep.png", lambda path: png_16(path, halves().astype(np.uint16) * 257)),
        ("cmyk.jpg", lambda path: RGB.convert("CMYK").save(path, quality=95)),
        ("cmyk.tif", lambda path: RGB.convert("CMYK").save(path)),
    ],
)
def test_colours_of_any_kind_of_file(tmp_path, name, make) -> None:
    make(tmp_path / name)
    found = colours_of(tmp_path / name)
    assert np.abs(np.subtract(found, [GREEN, SOIL])).max() <= 1


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("grey.jpg", lambda path: RGB.convert("L").save(path, quality=95)),
        ("grey16.png", lambda path: Image.fromarray(GREY).save(path)),
        ("grey16.tif", lambda path: Image.fromarray(GREY).save(path)),
        (
            "share.tif",
            lambda path: Image.fromarray((GREY / 65535).astype("f4")).save(path),
        ),
        (
            "alpha.png",
            lambda path: (
                Image.fromarray((GREY // 257).astype("u1")).convert("LA").save(path)
            ),
        ),
    ],
)
def test_grey_photos_are_grey_and_told(tmp_path, name, make) -> None:
    make(tmp_path / name)
    found = np.array(colours_of(tmp_path / name))
    if name != "grey.jpg":  # Pillow's luma is not the mean
        assert np.abs(found - np.array(GREYS)[:, None]).max() <= 1
    assert (found == found[:, :1]).all()
    RGB.save(tmp_path / "colour.png")
    with pytest.warns(UserWarning, match=r"of 2 photos .*: 1 grey, .*" + name):
        pasture.read_photos(row(name, "colour.png"), tmp_path)


def test_what_is_unusual_is_counted_in_one_warning(tmp_path) -> None:
    RGB.save(tmp_path / "good.png")
    for number in range(3):
        print_ = RGB.convert("CMYK").rotate(180 * (number % 2))
        print_.save(tmp_path / f"print{number}.jpg", quality=80 + number)
    Image.new("RGB", (200, 100), SOIL).save(tmp_path / "lens-cap.png")
    names = ["good.png", "lens-cap.png", *(f"print{n}.jpg" for n in range(3))]
    with pytest.warns(UserWarning, match="unusual") as noted:
        pasture.read_photos(row(*names), tmp_path)
    (one,) = noted
    assert "of 5 photos" in str(one.message)
    assert "3 CMYK" in str(one.message)
    assert "1 of one colour" in str(one.message)
    assert one.filename == __file__


def test_cmyk_is_converted_by_its_profile(tmp_path) -> None:
    # A profile that no formula reproduces cannot be made with Pillow alone: a broken
    # one counts as none.
    RGB.convert("CMYK").save(tmp_path / "broken.tif", icc_profile=b"no profile")
    with pytest.warns(UserWarning, match="1 CMYK without a colour profile"):
        pasture.read_photos(row("broken.tif"), tmp_path)
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    RGB.save(tmp_path / "rgb.png", icc_profile=wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pasture.read_photos(row("rgb.png"), tmp_path)


# --- what is refused, with the remedy ---


def stack(path: Path, **options: object) -> None:
    other = Image.fromarray(halves()[:, ::-1])
    RGB.save(path, save_all=True, append_images=[other], **options)


def transparent(path: Path, share: float) -> None:
    alpha = np.full((100, 200), 255, np.uint8)
    alpha.ravel()[: int(share * alpha.size)] = 0
    Image.fromarray(np.dstack([halves(), alpha])).save(path)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "g12.png",
            lambda path: Image.fromarray(GREY // 16).save(path),
            r"16 bits that reach only 1,820 of 65,535.*scale them to 8 bits",
        ),
        (
            "deep12.png",
            lambda path: png_16(path, halves().astype(np.uint16) * 16),
            r"stay below a quarter of white.*scale them to 8 bits",
        ),
        (
            "f.tif",
            lambda path: Image.fromarray((GREY / 257).astype("f4")).save(path),
            r"floating-point values from 80 to 113.*save them as 8 bits",
        ),
        (
            "nan.tif",
            lambda path: Image.fromarray(np.full((50, 100), np.nan, "f4")).save(path),
            "NaN or infinite",
        ),
        (
            "i.tif",
            lambda path: Image.fromarray(GREY.astype("i4") * 100).save(path),
            "integers of 32 bits",
        ),
        ("half.png", lambda path: transparent(path, 0.5), "transparent in 50%"),
        (
            "palette.png",
            lambda path: RGB.quantize(4).save(path, transparency=0),
            "transparent in",
        ),
        ("film.gif", stack, "it holds 2 images"),
        ("film.png", stack, "it holds 2 images"),
        ("film.webp", lambda path: stack(path, lossless=True), "it holds 2 images"),
        ("pages.tif", stack, "it holds 2 images"),
        ("lab.tif", lambda path: lab(path), "colour space LAB"),
        ("raw.NEF", lambda path: RGB.save(path, "TIFF"), "camera's sensor"),
        (
            "dng.tif",
            lambda path: RGB.save(path, tiffinfo={50706: b"\1\4\0\0"}),
            r"camera's sensor \(DNG\)",
        ),
        ("text.jpg", lambda path: path.write_text("no photo"), "save it as JPEG"),
        ("empty.jpg", lambda path: path.touch(), "save it as JPEG"),
        (
            "cut.png",
            lambda path: path.write_bytes(content_of("PNG")[:-40]),
            "unreadable: .*cut.png",
        ),
        (
            "cut.webp",
            lambda path: path.write_bytes(content_of("WEBP")[:-20]),
            "unreadable: .*cut.webp",
        ),
    ],
)
def test_photos_without_certain_colours_are_refused(
    tmp_path, name, make, message
) -> None:
    make(tmp_path / name)
    with pytest.raises(pasture.PhotoError, match=message):
        pasture.read_photos(row(name), tmp_path)


def lab(path: Path) -> None:
    profile = ImageCms.createProfile("sRGB")
    to_lab = ImageCms.buildTransform(
        profile, ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    made = ImageCms.applyTransform(RGB, to_lab)
    assert made is not None
    made.save(path)


def content_of(kind: str) -> bytes:
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 255, (100, 200, 3), np.uint8))
    stream = io.BytesIO()
    noise.save(stream, kind, lossless=True)
    return stream.getvalue()


def test_what_phones_and_archives_add_is_no_animation(tmp_path) -> None:
    small = RGB.resize((100, 50))
    RGB.save(tmp_path / "overview.tif", save_all=True, append_images=[small])
    RGB.save(
        tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[small], quality=95
    )
    transparent(tmp_path / "rim.png", 0.005)
    for name in ("overview.tif", "phone.jpg"):
        found = colours_of(tmp_path / name)
        assert np.abs(np.subtract(found, [GREEN, SOIL])).max() <= 1
    pasture.read_photos(row("overview.tif", "phone.jpg"), tmp_path)
    with pytest.warns(UserWarning, match="1 transparent in up to 1 %"):
        pasture.read_photos(row("rim.png"), tmp_path)


def heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


def test_heic_names_its_package_and_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without("pillow_heif"), *sys.meta_path])
    RGB.save(tmp_path / "a.png")
    for name in ("b.heic", "renamed.jpg"):
        heic(tmp_path / name)
    with pytest.raises(MissingPackageError, match=r"geobiomass\[heic\]'.*2 of 3"):
        pasture.read_photos(row("a.png", "b.heic", "renamed.jpg"), tmp_path)


class Without:
    """A finder of modules that does not find one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_heic_is_read_where_its_package_is(tmp_path, monkeypatch) -> None:
    """A stand-in of the package, which decodes all such files to one photo."""
    module = types.ModuleType("pillow_heif")

    def register() -> None:
        def accept(prefix: bytes) -> bool:
            return prefix[4:8] == b"ftyp"

        def decode(stream: io.BufferedReader, *_: object) -> Image.Image:
            stream.close()
            return RGB.copy()

        Image.register_open("HEIF", decode, accept)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "register_heif_opener", register, raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    Image.init()
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    heic(tmp_path / "b.heic")
    photos = pasture.read_photos(row("b.heic"), tmp_path)
    assert colours_of(Path(photos["path"].iloc[0])) == [GREEN, SOIL]


# --- shapes ---


def test_photos_that_are_upright_are_laid_across(tmp_path) -> None:
    RGB.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    RGB.save(tmp_path / "across.png")
    photos = pasture.read_photos(row("upright.png", "across.png"), tmp_path)
    loader = PhotoLoader(
        tuple(photos["path"]), np.zeros((2, 5), "f4"), 32, 64, 2, False
    )
    ((images, _),) = loader.epoch(0)
    np.testing.assert_array_equal(images[0], images[1])
    tall = PhotoLoader(tuple(photos["path"]), np.zeros((2, 5), "f4"), 64, 32, 2, False)
    ((images, _),) = tall.epoch(0)
    assert not np.array_equal(images[0], images[1])


# --- names ---


@pytest.mark.parametrize(
    ("disk", "table"),
    [
        (unicodedata.normalize("NFD", "Wäldchen_é.png"), "Wäldchen_é.png"),
        ("Wäldchen_é.png", unicodedata.normalize("NFD", "Wäldchen_é.png")),
        ("sub/ID1.png", "sub\\ID1.png"),
        ("sub/deep/ID1.png", ".\\sub\\deep\\ID1.png"),
        ("草地 1.png", "草地 1.png"),
        ("a.png", " a.png "),
        ("é/ID1.png", unicodedata.normalize("NFD", "é") + "\\ID1.png"),
    ],
)
def test_other_spellings_of_a_name_are_found(tmp_path, disk, table) -> None:
    (tmp_path / disk).parent.mkdir(parents=True, exist_ok=True)
    RGB.save(tmp_path / disk)
    photos = pasture.read_photos(row(table), tmp_path)
    assert Path(photos["path"].iloc[0]).samefile(tmp_path / disk)
    assert photos.attrs.get("found", {}) == {} or disk != table


@pytest.mark.parametrize(
    ("disk", "table", "told"),
    [
        ("a.png", "A.PNG", "1 found with other capital letters"),
        ("Sub/a.PNG", "sub/a.png", "1 found with other capital letters"),
        ("IMG_1.png", "IMG_1", "1 found with the file's ending added"),
        ("IMG_1.png", "C:\\Users\\me\\IMG_1.png", "path of another computer"),
        ("IMG_1.png", "/home/someone/field/IMG_1.png", "path of another computer"),
    ],
)
def test_similar_names_are_found_and_told(tmp_path, disk, table, told) -> None:
    (tmp_path / disk).parent.mkdir(parents=True, exist_ok=True)
    RGB.save(tmp_path / disk)
    RGB.rotate(180).save(tmp_path / "other.png")
    with pytest.warns(UserWarning, match=f"not all of 2 photos.*{told}"):
        photos = pasture.read_photos(row(table, "other.png"), tmp_path)
    assert Path(photos["path"].iloc[0]) == tmp_path / disk
    assert sum(photos.attrs["found"].values()) >= 1


def test_names_that_could_be_several_files_are_missing(tmp_path) -> None:
    for name in ("A.png", "a.PNG", "b.jpg", "b.png"):
        RGB.save(tmp_path / name)
    with pytest.raises(pasture.PhotoError, match=r"missing: .*a\.png, .*/b;"):
        pasture.read_photos(row("a.png", "b"), tmp_path)
