"""Cubes from Sentinel images in open archives with STAC catalogues.

- `from_archive`: `geobiomass.from_stac`, a lazy cube of monthly composites.
- `archives`: the known archives: collections and names of assets.
- `survey`: `geobiomass.survey_archive`, what there is before a pixel is read.
- `survey_rows`: a row for each month and sensor; `survey_picture`: drawn.
- `bytes_to_fetch`: their bytes; `file_places`: blocks of files that an area touches;
  `file_headers`: their sizes, of remote headers.
- `access`: signatures and keys.
- `found_scenes`: items of a search that a cube uses, as scenes.
- `search`: STAC items from an API, a catalogue, a file or a search.
- `scene`: one image, as its STAC item describes it.
- `select_scenes`: the images that a cube uses, and why others are left out.
- `period`: the months of a cube.
- `area`: the grid of a cube, and boxes in degrees.
- `read_month`: the images of one month and block, read in a dask task.
- `composites`: many images of a month made into one.
"""
