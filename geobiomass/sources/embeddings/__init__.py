"""Cubes of embeddings: one vector a pixel and year, computed by others from images.

- `from_embeddings`: `geobiomass.from_embeddings`, a lazy cube of one year.
- `archives`: which archive a name, path or address is.
- `products`: the published products: bands, licence, attribution.
- `alphaearth`: tiles of AlphaEarth, by their index.
- `tessera_tiles`: tiles of TESSERA, in .npy files.
- `zarr_stores`: Zarr stores that follow the geo-embeddings convention, as TESSERA's do.
- `stored_numbers`: stored whole numbers made into vectors.
- `tiles`: a tile of any archive, and the pixels of a block from several of them.
- `npy_files`: windows of .npy files, on disk or at an address.
"""
