"""Sources of cubes and labels, one folder per kind of source.

- `stac/`: Sentinel images in open archives, `geobiomass.from_stac`.
- `rasters/`: raster files, `geobiomass.from_rasters`.
- `embeddings/`: embeddings of AlphaEarth, TESSERA and Zarr stores,
  `geobiomass.from_embeddings`.
- `biomassters/`: the chips of the BioMassters competition, `from_biomassters`.
- `landscape/`: a synthetic landscape with known biomass, `geobiomass.landscape`.
- `labels`: labels for a cube, `geobiomass.with_labels`.
- `footprints`: tables of plots and footprints, and the pixels that they label.
- `grid`: a new grid from bounds, resolution and CRS.
- `grid_like`: the grid of something that has one already.
"""
