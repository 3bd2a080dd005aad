"""The studio: a page that converts, optimizes and compares models, in front of the public verbs.

It is the gateway with one more tab. Every job runs in a process of its own; its state is files, so
that it outlives the page and the studio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kanna._util.units import Size, optional_size, parse_size

if TYPE_CHECKING:
    from kanna.serving.pool import ModelPool

__all__ = ["studio"]

UPLOAD_LIMIT = 100_000_000_000
"""Bytes of an uploaded model."""


def default_folder() -> Path:
    """Where models and results lie when no folder is named."""
    return Path.home() / "kanna-studio"


def studio(
    folder: str | Path | None = None,
    *,
    models: Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 8008,
    context: int = 4096,
    memory: Size | None = None,
    threads: int | None = None,
    upload_limit: Size = UPLOAD_LIMIT,
    browser: bool = True,
    started: Callable[[str], None] | None = None,
    remark: Callable[[str], None] = lambda _: None,
) -> None:
    """Open the studio in a browser, until the process is interrupted.

    Its address holds a key that is made at the first start and kept in the folder: whoever has no
    key can do nothing, on this machine too.

    Args:
        folder: Of jobs, results and uploaded models; None: `~/kanna-studio`.
        models: Folders to look for models in; none: the current folder.
        host: Where to listen.
        port: 0 takes a free one.
        context: Tokens of a chat.
        memory: What all models of the chat may take, as 8GB or bytes; None: 80 % of what is free.
        threads: Of each model of the chat; None: one per physical core.
        upload_limit: Size of an uploaded model at most.
        browser: Open the page.
        started: Called with the address, key included, when the page can be opened.
        remark: Called with what people may want to know.

    Raises:
        UsageError: The folder is a file, or a folder to look in does not exist.
        MissingError: The extra `serve` is not installed.
        KannaError: The address is taken, or another studio works in the folder.
    """
    from kanna.serving import check_installed
    from kanna.serving.arguments import TlsOptions
    from kanna.serving.server import CanaryArguments, ServerOptions, run
    from kanna.serving.settings import GatewaySettings

    check_installed()
    from kanna.serving.studio.extension import StudioExtension
    from kanna.serving.studio.home import StudioHome

    home = StudioHome(Path(folder).expanduser() if folder else default_folder())
    places = home.check_searched([Path(p).expanduser() for p in models] or [Path.cwd()])
    settings = GatewaySettings(
        host=host,
        port=port,
        memory=optional_size(memory),
        context=context,
        slots=2,
        threads=threads,
    )

    def extend(pool: ModelPool) -> StudioExtension:
        return StudioExtension(home.path, places, parse_size(upload_limit), pool)

    def announce(address: str) -> None:
        page = f"{address}/#key={key}"
        if started:
            started(page)
        if browser and not home.open(page):
            remark("no browser could be opened: open the address yourself")

    options = ServerOptions(
        state=home.state,
        tls=TlsOptions(),
        canaries=CanaryArguments(),
        traces="",
        choose_program=False,
        wait_for_key=False,
        on_started=announce,
        on_message=remark,
        extend=extend,
    )
    with home.locked():
        key = home.key()
        run([], settings, options)
