"""The chips of the BioMassters competition: local folders, and the public bucket.

- `from_folder`: `geobiomass.from_biomassters`, a lazy cube from local folders.
- `plan_chips`: the files of each chip, listed and checked.
- `names`: the competition's file names, and the choice of chips.
- `download`: the download of missing files, several at a time.
- `bucket`: the files in the bucket, and the fetch of one file.
"""
