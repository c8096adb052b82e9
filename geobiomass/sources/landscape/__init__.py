"""A synthetic landscape with known biomass, for tests, examples and the demo.

- `scene`: `geobiomass.landscape`, the landscape as a lazy scene cube.
- `archive`: the landscape written as dated images with a STAC catalogue.
- `embedding_archive`: embeddings of the landscape, in the layouts of archives;
  `embedding_vectors`: the vectors; `embedding_stores`: their Zarr stores.
- `forest`: terrain, water, roads, stands and their biomass.
- `versions`: the constants of both versions.
- `sensors`: the monthly image of both satellites, out of the next four.
- `sentinel1`: radar backscatter.
- `sentinel2`: optical reflectance, and the clouds of version 1.
- `clouds`: clouds, shadow, haze and a flag that errs, of version 2.
- `gaps`: pixels and months without data.
- `random_fields`: random numbers that depend on seed and position only.
"""
