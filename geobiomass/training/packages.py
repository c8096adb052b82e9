"""Optional packages: extras of the installation."""

from __future__ import annotations

from importlib import import_module

__all__ = ["MissingPackageError", "need", "need_for_address"]


class MissingPackageError(ModuleNotFoundError):
    """Error of an optional package that is not installed; it names the extra."""


def need(what: str, extra: str, *modules: str) -> None:
    """Check that optional packages are installed before they are used.

    Parameters
    ----------
    what : str
        The feature that needs them, such as ``"Drawing"``: it begins the sentence.
    extra : str
        The extra of geobiomass that installs them.
    *modules : str
        Names to import.

    Raises
    ------
    MissingPackageError
        If one of them is not installed. Errors within an installed package are raised
        unchanged.
    """
    for name in modules:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise MissingPackageError(
                f"{what} needs {' and '.join(modules)}, and {name} is not installed: "
                f"pip install 'geobiomass[{extra}]'",
                name=name,
            ) from error


def need_for_address(address: object) -> None:
    """Check that the package is installed that reads an address of object storage.

    For other kinds of storage than S3, fsspec names the package.

    Raises
    ------
    MissingPackageError
        If the address is on S3 and s3fs is not installed.
    """
    if isinstance(address, str) and address.startswith("s3://"):
        need("Storage on S3", "s3", "s3fs")
