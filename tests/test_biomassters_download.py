"""BioMassters chips out of a bucket: whole, in parts, killed, damaged, no room."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import stac_server
import xarray as xr
from biomassters_files import bitwise_cksum, write_chip, write_tables

import geobiomass as gb
from geobiomass.sources.biomassters import bucket as biomassters_bucket
from geobiomass.sources.biomassters import download as biomassters_download
from geobiomass.sources.biomassters.bucket import DownloadError, posix_cksum
from geobiomass.sources.biomassters.download import download_chips

CHIPS = ["00aa11bb", "00cc22dd", "12345678", "fe000001"]
FILES = 25  # of a chip: 12 months of either sensor, and the label


@dataclass
class Bucket:
    """The competition's files in a bucket of their own, and what was asked of it."""

    origin: Path  # the same files on disk
    address: str
    options: dict[str, Any]  # of one who may read
    owner: Any  # a file system that may write
    reads: Counter[str] = field(default_factory=Counter)
    damage: dict[str, list[bytes]] = field(default_factory=dict)  # sent first
    changed: set[str] = field(default_factory=set)  # files that differ from the origin

    def get(self, root: Path, split: str = "train", **given: Any) -> xr.Dataset:
        given = {"progress": False, "storage_options": self.options} | given
        return gb.from_biomassters(root, split, download=self.address, **given)

    def put(self, name: str, data: bytes) -> None:
        self.owner.pipe_file(f"{self.address}/{name}", data)
        self.changed.add(name)

    def remove(self, *names: str) -> None:
        for name in names:
            self.owner.rm_file(f"{self.address}/{name}")
            self.changed.add(name)

    def restore(self) -> None:
        for name in self.changed:
            if (self.origin / name).is_file():
                data = (self.origin / name).read_bytes()
                self.owner.pipe_file(f"{self.address}/{name}", data)
            else:
                self.owner.rm_file(f"{self.address}/{name}")

    def cat_file(self, files: Any, key: str) -> bytes:
        name = "/".join(key.rsplit("/", 2)[1:])
        self.reads[name] += 1
        if self.damage.get(name):
            return self.damage[name].pop(0)
        return bytes(files.cat_file(key))


class Watched:
    """A file system whose reads are counted."""

    def __init__(self, files: Any, bucket: Bucket) -> None:
        self.files, self.bucket = files, bucket

    def cat_file(self, key: str) -> bytes:
        return self.bucket.cat_file(self.files, key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    for chip in CHIPS:
        write_chip(root, chip, side=4)
    write_tables(root)
    return root


@pytest.fixture(scope="module")
def uploaded(origin: Path, s3: str) -> Bucket:
    """The files in a bucket, once for all tests."""
    options = {"endpoint_url": s3, "use_listings_cache": False}
    public = {"ACL": "public-read"}
    owner = fsspec.filesystem("s3", **options, s3_additional_kwargs=public)
    owner.mkdir("download", acl="public-read")
    owner.put(f"{origin}/", "s3://download/a/folder/", recursive=True)
    return Bucket(origin, "s3://download/a/folder", options, owner)


@pytest.fixture
def bucket(uploaded: Bucket, monkeypatch: Any) -> Iterator[Bucket]:
    bucket = Bucket(uploaded.origin, uploaded.address, uploaded.options, uploaded.owner)
    opened = biomassters_bucket.open_bucket

    def watched(*given: Any) -> Any:
        real = opened(*given)
        return replace(real, files=Watched(real.files, bucket))

    monkeypatch.setattr(biomassters_download, "open_bucket", watched)
    yield bucket
    bucket.restore()


@pytest.mark.slow
def test_the_whole_split(bucket: Bucket, tmp_path: Path) -> None:
    cube = bucket.get(tmp_path / "new" / "data")
    assert cube.chip.values.tolist() == CHIPS
    xr.testing.assert_identical(cube, gb.from_biomassters(bucket.origin))
    assert set(bucket.reads.values()) == {1}
    assert len(bucket.reads) == FILES * len(CHIPS) + 2  # and the tables
    bucket.get(tmp_path / "new" / "data")
    assert bucket.reads.total() == FILES * len(CHIPS) + 2
    again = gb.from_biomassters(tmp_path / "new" / "data")
    xr.testing.assert_identical(again, cube)


@pytest.mark.slow
def test_chosen_chips(bucket: Bucket, tmp_path: Path) -> None:
    cube = bucket.get(tmp_path, chips=["fe000001", "12345678"])
    assert cube.chip.values.tolist() == ["12345678", "fe000001"]
    assert len(list(tmp_path.glob("train_*/*.tif"))) == 2 * FILES
    assert bucket.get(tmp_path, chips="00aa11bb").chip.values.tolist() == ["00aa11bb"]
    assert bucket.reads.total() == 3 * FILES + 2
    assert gb.from_biomassters(tmp_path).sizes["chip"] == 3
    with pytest.raises(gb.CubeError, match=r"among the 4 listed in s3://.*'unknown'"):
        bucket.get(tmp_path, chips=["00aa11bb", "unknown"])
    with pytest.raises(gb.CubeError, match="got none"):
        bucket.get(tmp_path, chips=[])
    with pytest.raises(gb.CubeError, match="from 1 to the 4 listed"):
        bucket.get(tmp_path, chips=5)


@pytest.mark.slow
def test_a_number_of_chips_is_always_the_same_ones(
    bucket: Bucket, tmp_path: Path
) -> None:
    drawn = [set(bucket.get(tmp_path / str(n), chips=n).chip.values) for n in (1, 2, 3)]
    assert [len(chips) for chips in drawn] == [1, 2, 3]
    assert drawn[0] < drawn[1] < drawn[2]
    # Of what is there, without a download, too.
    assert set(gb.from_biomassters(tmp_path / "3", chips=2).chip.values) == drawn[1]
    with pytest.raises(gb.CubeError, match=r"download=True gets others.*got 4"):
        gb.from_biomassters(tmp_path / "3", chips=4)
    (only,) = drawn[0]
    few = gb.from_biomassters(tmp_path / "3", chips=only)
    xr.testing.assert_identical(few, gb.from_biomassters(tmp_path / "1"))


@pytest.mark.slow
def test_test_chips_have_no_labels(s3: str, bucket: Bucket, tmp_path: Path) -> None:
    write_chip(tmp_path / "origin", "aaaa0000", split="test", side=4, label=False)
    write_tables(tmp_path / "origin", "test")
    for path in (tmp_path / "origin").rglob("*.*"):
        bucket.put(f"{path.relative_to(tmp_path / 'origin')}", path.read_bytes())
    cube = bucket.get(tmp_path / "data", "test")
    assert (cube.chip.values.tolist(), "agb" in cube) == (["aaaa0000"], False)
    (tmp_path / "data" / "train_agbm_metadata.csv").write_text("filename,size\n")
    with pytest.raises(DownloadError, match="lists no files of split 'train'"):
        bucket.get(tmp_path / "data")


KILLED = """
import time
from geobiomass.sources.biomassters import download as biomassters_download
from geobiomass.sources.biomassters.download import download_chips
fetch = biomassters_download.fetch
def slowly(*given):
    time.sleep(0.3)
    fetch(*given)
biomassters_download.fetch = slowly
download_chips({root!r}, source={address!r}, storage_options={options!r})
"""


@pytest.mark.slow
def test_a_killed_download_resumes(bucket: Bucket, tmp_path: Path) -> None:
    script = KILLED.format(
        root=str(tmp_path), address=bucket.address, options=bucket.options
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            if len(list(tmp_path.glob("train_*/*.tif"))) >= 20:
                break
            time.sleep(0.01)
        with pytest.raises(DownloadError, match="Another process is downloading"):
            bucket.get(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    finished = {path: path.stat() for path in tmp_path.glob("train_*/*.tif")}
    assert 20 <= len(finished) < FILES * len(CHIPS)
    (tmp_path / "train_agbm" / "00aa11bb_agbm.tif.part").write_bytes(b"half")
    cube = bucket.get(tmp_path)
    xr.testing.assert_identical(cube, gb.from_biomassters(bucket.origin))
    assert bucket.reads.total() == FILES * len(CHIPS) - len(finished)
    for path, before in finished.items():
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert f"{path.parent.name}/{path.name}" not in bucket.reads
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.slow
def test_a_file_that_arrives_damaged_is_downloaded_again(
    bucket: Bucket, tmp_path: Path, tables: bool
) -> None:
    if not tables:
        bucket.remove("features_metadata.csv", "train_agbm_metadata.csv")
    name = "train_features/00aa11bb_S1_03.tif"
    whole = (bucket.origin / name).read_bytes()
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    bucket.damage[name] = [flipped, whole[:-1]]
    bucket.get(tmp_path)
    assert bucket.reads[name] == 3
    assert (tmp_path / name).read_bytes() == whole


@pytest.mark.slow
def test_files_damaged_in_the_bucket_are_named(bucket: Bucket, tmp_path: Path) -> None:
    names = ["train_agbm/12345678_agbm.tif", "train_features/00aa11bb_S2_11.tif"]
    gone = "train_features/fe000001_S1_00.tif"
    for name in names:
        whole = (bucket.origin / name).read_bytes()
        bucket.put(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    bucket.remove(gone)
    with pytest.raises(DownloadError) as caught:
        bucket.get(tmp_path)
    for name in names:
        right = bitwise_cksum(bucket.origin / name)
        assert f"{name}: it arrived with cksum" in str(caught.value)
        assert f"instead of {right}, 3 times" in str(caught.value)
        assert not (tmp_path / name).exists()
    assert f"3 of {FILES * len(CHIPS)} files of s3://" in str(caught.value)
    assert f"{gone}: it does not exist" in str(caught.value)
    there = len(list(tmp_path.glob("train_*/*.tif")))
    assert there == FILES * len(CHIPS) - 3
    bucket.reads.clear()
    for name in [*names, gone]:
        bucket.put(name, (bucket.origin / name).read_bytes())
    bucket.get(tmp_path)
    assert bucket.reads == Counter([*names, gone])


def test_a_download_stops_after_ten_failures(bucket: Bucket, tmp_path: Path) -> None:
    names = [f"train_features/{path.name}" for path in bucket.origin.glob("*/*_S1_*")]
    bucket.remove(*names)
    with pytest.raises(DownloadError, match="the others were not tried"):
        bucket.get(tmp_path)
    assert sum(bucket.reads[name] for name in names) < len(names)


def test_existing_files_are_verified_on_demand(bucket: Bucket, tmp_path: Path) -> None:
    bucket.get(tmp_path, chips=CHIPS[:2])
    flipped, cut = (tmp_path / "train_agbm" / f"{chip}_agbm.tif" for chip in CHIPS[:2])
    whole = flipped.read_bytes()
    flipped.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    cut.write_bytes(cut.read_bytes()[:-1])
    bucket.reads.clear()
    bucket.get(tmp_path, chips=CHIPS[:2])  # its size shows that a file is incomplete
    assert list(bucket.reads) == [f"train_agbm/{cut.name}"]
    assert flipped.read_bytes() != whole
    bucket.get(tmp_path, chips=CHIPS[:2], verify=True)
    assert list(bucket.reads) == [
        f"train_agbm/{cut.name}",
        f"train_agbm/{flipped.name}",
    ]
    assert flipped.read_bytes() == whole


def test_a_download_without_room_does_not_begin(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError) as caught:
        bucket.get(tmp_path)
    needed = FILES * len(CHIPS) * 4096 / 1e6
    assert str(caught.value) == (
        f"100 files of {needed:.1f} MB do not fit into {tmp_path}, which has 0.0 MB "
        "free; make room, or choose fewer chips."
    )
    assert not list(tmp_path.glob("train_*/*.tif"))


def test_an_incomplete_file_never_has_its_final_name(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "_S2_03.tif" not in path.name:
            return write(path, data)
        write(path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    name = f"{CHIPS[0]}_S2_03.tif"
    with pytest.raises(DownloadError, match=f"{name}: .* No space left on device"):
        download_chips(tmp_path, chips=CHIPS[0], source=origin.as_uri(), progress=False)
    assert not list(tmp_path.rglob(f"{name}*"))


def test_nothing_at_the_address(bucket: Bucket, tmp_path: Path) -> None:
    given = {"storage_options": bucket.options, "progress": False}
    for address in ("s3://no-such-bucket", f"{bucket.address}/elsewhere"):
        with pytest.raises(DownloadError) as caught:
            gb.from_biomassters(tmp_path, download=address, **given)
        assert str(caught.value) == (
            f"{address} must contain features_metadata.csv or train_features/ with "
            "files named like 0060c0a5_S1_00.tif, and has neither; check the address."
        )
    with pytest.raises(DownloadError, match=r"metadata\.csv of .* cannot be read"):
        bucket.get(tmp_path, storage_options={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(gb.CubeError, match=r"download must be True, one of \('us'"):
        gb.from_biomassters(tmp_path, download="america", **given)
    bucket.put("features_metadata.csv", b"chip_id,size\na,1\n")
    with pytest.raises(gb.CubeError, match=r"features_metadata\.csv must be a CSV"):
        bucket.get(tmp_path)


def test_the_public_bucket_is_read_anonymously(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[str, dict[str, Any]]] = []

    def url_to_fs(address: str, **options: Any) -> tuple[None, str]:
        opened.append((address, options))
        return None, address.removeprefix("s3://")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    for source in (True, "us", "eu", "as"):
        biomassters_bucket.open_bucket(source, None)
    biomassters_bucket.open_bucket("s3://mine/x/", {"key": "k", "secret": "s"})
    biomassters_bucket.open_bucket("s3://mine", {"anon": False})
    biomassters_bucket.open_bucket("file:///a/mirror", None)
    public = "s3://drivendata-competition-biomassters-public-"
    assert [address for address, _ in opened[:4]] == [
        public + region for region in ("us", "us", "eu", "as")
    ]
    assert [options.get("anon") for _, options in opened] == (
        [True] * 4 + [None, False, None]
    )


def test_a_mirror_on_a_disk_and_the_progress_bar(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = download_chips(tmp_path, chips=2, source=origin.as_uri())
    err = capsys.readouterr().err
    size = sum(path.stat().st_size for path in tmp_path.glob("train_*/*.tif"))
    assert (len(chosen), "Downloading: 100%" in err) == (2, True)
    assert f"{size / 1e3:.1f}k/{size / 1e3:.1f}k [" in err  # bytes


def test_a_mirror_on_a_web_server(origin: Path, tmp_path: Path) -> None:
    with stac_server.serve(origin, []) as site:
        chosen = download_chips(tmp_path, chips=2, source=site.url, progress=False)
        asked = [path for path, _ in site.answers if path.endswith(".tif")]
        again = download_chips(tmp_path, chips=2, source=site.url, progress=False)
    assert chosen == again
    assert len(chosen) == 2
    copies = sorted(tmp_path.glob("train_*/*.tif"))
    assert len(copies) == len(asked) == len(set(asked)) == FILES * 2
    for copy in copies:
        original = origin / copy.parent.name / copy.name
        assert copy.read_bytes() == original.read_bytes()


@pytest.mark.slow
def test_on_the_command_line(
    bucket: Bucket, tmp_path: Path, run: Any, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    words = ["ingest", "biomassters", tmp_path / "data", tmp_path / "chips.zarr"]
    from_bucket = ["--download", "--source", bucket.address]
    code, out, err = run(*words, *from_bucket, "--chips", "fe000001,12345678")
    assert (code, "2 chips" in out) == (0, True), err
    cube = gb.open_cube(tmp_path / "chips.zarr")
    assert cube.chip.values.tolist() == ["12345678", "fe000001"]
    more = [*words[:3], tmp_path / "three.zarr"]
    code, _, err = run(*more, *from_bucket, "--chips", "3", "--verify")
    assert code == 0, err
    assert gb.open_cube(tmp_path / "three.zarr").sizes["chip"] == 3
    code, _, err = run(*more, "--download", "--source", "mars")
    assert (code, "download must be True" in err) == (2, True)
    gone = ["--download", "--source", "s3://no-such-bucket"]
    code, _, err = run(*words[:2], tmp_path / "other", words[3], *gone)
    assert (code, err.count("\n")) == (2, 1)
    assert "s3://no-such-bucket" in err


def test_real_chips(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    shutil.copytree(data / "biomassters_small", tmp_path / "real")
    chips = sorted({p.name[:8] for p in (tmp_path / "real").glob("train_agbm/*.tif")})
    real = tmp_path / "real"
    for path in real.glob("train_*/*.tif"):
        if path.name.startswith(chips[0]):
            bucket.put(f"{path.parent.name}/{path.name}", path.read_bytes())
    bucket.remove("features_metadata.csv", "train_agbm_metadata.csv")
    cube = bucket.get(tmp_path / "data", chips=chips[0])
    expected = gb.from_biomassters(real, chips=chips[0])
    np.testing.assert_array_equal(cube.image, expected.image)
    np.testing.assert_array_equal(cube.agb, expected.agb)


def test_checksums_are_those_of_the_command(tmp_path: Path) -> None:
    assert posix_cksum(b"123456789") == 930766865  # the published check value
    draw = np.random.default_rng(0)
    paths = []
    for size in (0, 1, 255, 256, 65_536, 100_003):
        paths.append(tmp_path / str(size))
        paths[-1].write_bytes(draw.bytes(size))
        assert posix_cksum(paths[-1].read_bytes()) == bitwise_cksum(paths[-1])
    if not (command := shutil.which("cksum")):
        pytest.skip("the command cksum is not there to compare with")
    out = subprocess.run([command, *paths], capture_output=True, text=True, check=True)
    printed = [int(line.split()[0]) for line in out.stdout.splitlines()]
    assert printed == [posix_cksum(path.read_bytes()) for path in paths]
