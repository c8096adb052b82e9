"""Cubes from Sentinel images in open archives with STAC catalogues.

- `from_archive`: `geobiomass.from_stac`, a lazy cube of monthly composites.
- `archives`: the known archives: collections and names of assets.
- `search`: STAC items from an API, a catalogue, a file or a search.
- `scene`: one image, as its STAC item describes it.
- `select_scenes`: the images that a cube uses, and why others are left out.
- `period`: the months of a cube.
- `area`: the grid of a cube, and boxes in degrees.
- `read_month`: the images of one month and block, read in a dask task.
- `composites`: many images of a month made into one.
"""
