"""Signatures in the format of sigstore's model-signing, made and checked with keys on disk.

They need no network and no account.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna._util.nearest import absent
from kanna.errors import GateError, MissingError, NotFoundError, UsageError

FILE = "model.sig"
PASSWORD = "KANNA_SIGN_PASSWORD"
_MAKE = (
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem "
    "&& openssl ec -in key.pem -pubout -out key.pub.pem"
)


def check_key(key: Path) -> None:
    """Raise UsageError for a key that cannot sign, before anything is written."""
    _signer(key)


def sign(folder: Path, key: Path) -> None:
    """Sign every file of a package into FOLDER/model.sig.

    Args:
        folder: The package.
        key: A private key on the curve P-256, P-384 or P-521, as PEM. The password of an encrypted
            key is read from KANNA_SIGN_PASSWORD.
    """
    from model_signing import hashing

    signature = folder / FILE
    config = hashing.Config().set_ignored_paths(paths=[Path(FILE)], ignore_git_paths=False)
    _signer(key).set_hashing_config(config).sign(folder, signature)
    signature.chmod(0o644)


def _signer(key: Path) -> Any:
    try:
        from model_signing import signing
    except ModuleNotFoundError as error:
        raise MissingError(
            "signing needs the Python package model-signing", todo=extras.command("package")
        ) from error
    if not key.is_file():
        raise NotFoundError(f"the key {absent(key)}", todo=f"make one: {_MAKE}")
    password: Any = os.environ.get(PASSWORD)
    try:
        # The library hands the password on as it is, and cryptography wants bytes.
        return signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{key} cannot sign: {error}",
            expected="a private key on the curve P-256, P-384 or P-521, as PEM",
            todo=f"make one: {_MAKE}, or give the password of this one in {PASSWORD}",
        ) from error


def verify(folder: Path, key: Path) -> None:
    """Check that FOLDER/model.sig signs the files of the package.

    Args:
        folder: The package.
        key: The public key of who signed it, as PEM.

    Raises:
        GateError: There is no signature, or it does not hold.
        UsageError: The key is missing or is no public key.
        MissingError: model-signing is not installed.
    """
    try:
        from model_signing import hashing, verifying
    except ModuleNotFoundError as error:
        raise MissingError(
            "checking a signature needs the Python package model-signing",
            todo=extras.command("package"),
        ) from error
    if not key.is_file():
        raise NotFoundError(
            f"the key {absent(key)}", expected="the public key of who signed, as PEM"
        )
    if not (folder / FILE).is_file():
        raise GateError(
            f"{folder} is not signed: there is no {FILE}", todo="sign with kanna package --sign-key"
        )
    config = hashing.Config().set_ignored_paths(paths=[Path(FILE)], ignore_git_paths=False)
    try:
        checker = (
            verifying.Config().set_hashing_config(config).use_elliptic_key_verifier(public_key=key)
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{key} is no public key: {error}", expected="a public key as PEM"
        ) from error
    try:
        checker.verify(folder, folder / FILE)
    except Exception as error:  # the library raises whatever its parsers do
        reason = str(error) or type(error).__name__
        raise GateError(
            f"the signature does not hold: {reason[:400]}", todo="do not serve this package"
        ) from error
