"""Pictures are decoded in another process before an engine decodes them in its own.

A decoder of strangers' files in C may end its process, and an engine has other clients.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from kanna.serving.problems import ApiError, overloaded
from kanna.serving.requests import pictures
from kanna.serving.served_model import ServedModel
from kanna.serving.worker_process import WorkerBusyError, WorkerLostError, WorkerProcess

_KEPT = 1024
"""Pictures that are known to be well: a conversation sends its own with every turn."""


class PictureTrial:
    """The process that decodes, and what it has decoded."""

    def __init__(self) -> None:
        self._worker = WorkerProcess("kanna.serving.picture_worker")
        self._well: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, model: ServedModel, body: dict[str, Any]) -> None:
        """Refuse pictures that the model or its engine cannot read.

        Args:
            model: Who is to answer.
            body: Of the request, checked.

        Raises:
            ApiError: 400: the model has no vision tower, or a picture is damaged; 503: other
                pictures take their time.
        """
        for url in pictures.in_body(body):
            if model.spec.mmproj is None:
                raise ApiError(
                    400,
                    f"{model.name!r} reads text alone: it is served without a vision tower "
                    "(kanna serve MODEL.gguf --mmproj mmproj.gguf)",
                    code="pictures_not_supported",
                    param="messages",
                )
            await self._decode(pictures.data_of(url))

    async def _decode(self, data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        if digest in self._well:
            self._well.move_to_end(digest)
            return
        try:
            problem = (await self._worker.ask(data)).decode()
        except WorkerBusyError:
            raise overloaded("other pictures are being decoded") from None
        except WorkerLostError:
            problem = "a picture takes too much time or memory to be decoded"
        if problem:
            raise ApiError(400, problem, code="invalid_image", param="messages")
        self._well[digest] = None
        while len(self._well) > _KEPT:
            self._well.popitem(last=False)

    def kill(self) -> None:
        """End the process; the next picture starts another."""
        self._worker.kill()
