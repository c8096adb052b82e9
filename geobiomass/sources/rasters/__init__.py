"""Cubes from raster files.

- `from_files`: `geobiomass.from_rasters`, a lazy cube from files of any CRS.
- `find_files`: files by pattern or table, with their month and band.
- `headers`: bands and georeference of files, from their headers.
- `target_grid`: the grid of the cube, out of the arguments and the files.
- `grid_geometry`: offset, ratio and outline of one grid on another.
- `lazy_array`: the dask array, one task per step and block.
- `read_block`: the pixels of one block, read from all files that touch it.
- `reproject`: reprojection of pixels.
- `open_raster`: files opened with the settings of GDAL that reading needs.
- `tiff_header`: the size that a TIFF file must have, from its header.
"""
