"""What the studio adds to the gateway."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from kanna.serving.gateway import Gateway
from kanna.serving.pool import ModelPool
from kanna.serving.studio import routes
from kanna.serving.studio.estimate import Estimator
from kanna.serving.studio.jobs import JobStore
from kanna.serving.studio.outcomes import Outcomes
from kanna.serving.studio.runner import JobRunner
from kanna.serving.studio.uploads import UploadStore


class StudioExtension:
    """Jobs, uploads and what came out of them, beside the gateway's models.

    Args:
        folder: Of the studio.
        searched: Folders to look for models in.
        upload_limit: Bytes of an uploaded model at most.
        pool: Gets what jobs made, to chat with.
    """

    mark = "data-studio"

    def __init__(
        self, folder: Path, searched: tuple[Path, ...], upload_limit: int, pool: ModelPool
    ) -> None:
        store = JobStore(folder)
        outcomes = Outcomes(store, pool)
        self.parts = routes.StudioParts(
            folder=folder,
            searched=searched,
            store=store,
            runner=JobRunner(store, outcomes.register),
            uploads=UploadStore(folder / "uploads", upload_limit),
            outcomes=outcomes,
            estimator=Estimator(),
        )

    def router(self, gateway: Gateway) -> APIRouter:
        """Routes under /studio."""
        return routes.router(gateway, self.parts)

    async def start(self) -> None:
        """Serve what earlier jobs made, and go on with those that were cut off."""
        self.parts.outcomes.register_all()
        self.parts.runner.start()

    async def stop(self) -> None:
        """Interrupt what runs; it goes on at the next start."""
        await self.parts.runner.stop()
