"""Fixtures of several test modules: real data, small scenes, new processes, S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cpu_time
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import settings
from new_process import NewProcesses

if TYPE_CHECKING:
    from stac_server import Site

# The quick suite draws fewer examples, the same ones in each run.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=15)
settings.register_profile("quick", settings.get_profile("steady"), max_examples=10)


def pytest_configure(config: pytest.Config) -> None:
    cpu_time.register(config)
    settings.load_profile("quick" if config.option.markexpr == "not slow" else "steady")


# Modules that take minutes begin first: else one process ends with them alone.
LONGEST = (
    "test_notebooks.py",
    "test_processes.py",
    "test_pasture_demo.py",
    "test_preemption.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


# Processes that a shell starts in the background ignore Ctrl-C, and so would all that
# the tests start: tests that press it would wait forever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# One thread, here and in processes that tests start: the last bits of training depend
# on the number of threads, and one module runs on each core.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# dask's clusters set these in this process too. Processes that later tests start get
# the values from before.
_THREADS = {
    name: os.environ.get(name)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
}


@pytest.fixture(autouse=True)
def _threads_of_later_processes() -> Iterator[None]:
    yield
    for name, value in _THREADS.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data; skip the test where it is not set."""
    folder = os.environ.get("GEOBIOMASS_DATA")
    if not folder:
        pytest.skip("GEOBIOMASS_DATA is not set: no real data to test with")
    return Path(folder)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; return exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        from geobiomass import cli

        monkeypatch.setattr(sys, "argv", ["geobiomass", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        caught = capsys.readouterr()
        return int(stop.value.code or 0), caught.out, caught.err

    return call


@pytest.fixture(scope="session")
def compiled_folds() -> None:
    """Compile the search for folds, which takes seconds where numba has no cache."""
    import pandas as pd

    import pasture

    days = pd.date_range("2015-01-01", periods=6)
    photos = pd.DataFrame({"State": [*"ababab"], "Sampling_Date": days})
    photos[list(pasture.TARGETS)] = np.arange(30.0).reshape(6, 5)
    for search in ("exchange", "seeds", "seeds-1.7"):
        pasture.balanced_folds(photos, 2, 10, search=search, progress=False)


@pytest.fixture(scope="session")
def new_process() -> Iterator[NewProcesses]:
    """Run scripts in new processes, in which nothing of ours is imported yet."""
    with NewProcesses() as processes:
        yield processes


@pytest.fixture(scope="session")
def warm() -> Iterator[NewProcesses]:
    """Run scripts in processes that have the package imported, for the fault suite."""
    from killing import warm_processes

    with warm_processes() as processes:
        yield processes


@pytest.fixture(scope="session")
def archive_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the small archive of ``stac_server``: only to read."""
    import stac_server

    folder = tmp_path_factory.mktemp("archive")
    stac_server.write_images(folder, stac_server.images())
    return folder


@pytest.fixture(scope="session")
def archive_site(archive_folder: Path) -> Iterator[Site]:
    """Serve this archive."""
    import stac_server

    with stac_server.serve(archive_folder, stac_server.images()) as site:
        yield site


# One for all modules: s3fs keeps connections by their settings, not by the address that
# the environment names.
@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server on this machine that speaks S3, with an empty bucket 'cubes'."""
    script = textwrap.dedent(
        """
        import logging, sys
        from moto.server import ThreadedMotoServer
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(port=0, verbose=False)
        server.start()
        print(server.get_host_and_port()[1], flush=True)
        sys.stdin.read()
        """
    )
    keys = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    patch = pytest.MonkeyPatch()
    for name, value in keys.items():
        patch.setenv(name, value)
    from s3fs import S3FileSystem

    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        S3FileSystem(endpoint_url=address).mkdir("cubes")
        yield address
        server.kill()
    patch.undo()


def make_scene(
    height: int = 40,
    width: int = 56,
    months: tuple[int, ...] = (6, 7, 8),
    bands: tuple[str, ...] = ("VV_asc", "B04", "B08"),
    seed: int = 0,
) -> xr.Dataset:
    """Return a small scene whose biomass follows from its bands, with gaps."""
    import rioxarray  # noqa: F401  (the .rio accessor)

    draw = np.random.default_rng(seed)
    stands = draw.gamma(2.0, 40.0, (height // 8 + 1, width // 8 + 1))
    agb = np.kron(stands, np.ones((8, 8)))[:height, :width]
    agb = (agb + draw.uniform(0, 5, agb.shape)).astype(np.float32)
    image = np.empty((len(months), len(bands), height, width), np.float32)
    for index, band in enumerate(bands):
        noise = draw.normal(0, 1, (len(months), height, width))
        if band.startswith("V"):
            image[:, index] = -15 + 5 * np.tanh(agb / 100) + noise
        else:
            image[:, index] = np.rint(3000 * np.exp(-agb / 150) + 50 * noise + 500)
    image[0, -1, : height // 4] = np.nan
    scene = xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), image),
            "agb": (("y", "x"), agb, {"units": "Mg/ha"}),
        },
        coords={
            "month": list(months),
            "band": list(bands),
            "y": 6_900_000.0 - 10 * np.arange(height) - 5,
            "x": 400_000.0 + 10 * np.arange(width) + 5,
        },
    )
    return scene.rio.write_crs("EPSG:3067").rio.write_coordinate_system()


def make_chips(count: int = 6, side: int = 32, seed: int = 0) -> xr.Dataset:
    """Return a few small chips with labels."""
    parts = [
        make_scene(side, side, seed=seed + index).drop_vars(["y", "x", "spatial_ref"])
        for index in range(count)
    ]
    chips = xr.concat(parts, "chip", coords="minimal", compat="override")
    return chips.assign_coords(chip=[f"chip{index:03d}" for index in range(count)])


@pytest.fixture
def scene() -> xr.Dataset:
    """Return a scene of 40 x 56 pixels, three months, three bands."""
    return make_scene()


@pytest.fixture
def chips() -> xr.Dataset:
    """Return six chips of 32 x 32 pixels, three months, three bands."""
    return make_chips()
