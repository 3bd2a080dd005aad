"""A repository of a registry: its manifests, small blobs and what refers to a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import quote, urlsplit

from kanna.errors import FormatError, RefusedError, SourceError
from kanna.oci import OciName
from kanna.registry import connection, manifests
from kanna.registry.connection import Body, RegistryAnswer
from kanna.registry.credentials import authorization
from kanna.registry.manifests import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, ManifestDocument

_ACCEPT = f"{IMAGE_INDEX}, {IMAGE_MANIFEST}"
MOST_REFERRERS = 256


class RegistryRepository:
    """A repository of a registry.

    Args:
        name: Of an artefact in it.
        pushes: Whether something will be written.
    """

    def __init__(self, name: OciName, *, pushes: bool = False) -> None:
        self.name = name
        self.url = f"{connection.base_url(name.host)}/v2/{name.repository}"
        self._actions = "pull,push" if pushes else "pull"
        self._authorization: str | None = None

    def begin(
        self,
        line: HTTPConnection,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> HTTPResponse:
        """Send a request of this registry, with the log-in that it wants.

        Args:
            line: A connection to it.
            method: Such as GET.
            url: Of this registry.
            headers: Of the request.
            body: Small bodies are sent again with the log-in; parts of files are not.
        """
        for last in (False, True):
            own = dict(headers or {})
            if self._authorization:
                own["Authorization"] = self._authorization
            response = connection.send(line, method, url, own, body)
            if response.status != 401 or last:
                break
            challenge = response.getheader("WWW-Authenticate") or ""
            connection.read_small(response, "an error")
            self._authorization = authorization(
                self.name.host, challenge, self.name.repository, self._actions
            )
            if body is not None and not isinstance(body, bytes):
                raise ConnectionResetError("a log-in ran out")  # tried again with the new one
        return response

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> RegistryAnswer:
        """The small answer to a request; a broken connection is made again.

        Args:
            method: Such as GET.
            url: Of this registry.
            headers: Of the request.
            body: What is sent.
        """

        def once() -> RegistryAnswer:
            with closing(connection.open_connection(url)) as line:
                response = self.begin(line, method, url, headers, body)
                data = connection.read_small(response, f"the answer of {self.name.host}")
                if response.status >= 500 and response.status != 501:
                    raise ConnectionError(f"HTTP {response.status}")
                return RegistryAnswer(
                    status=response.status, headers=connection.headers_of(response), body=data
                )

        answer = connection.tried(once, self.name.host)
        if answer.status in (301, 302, 303, 307, 308):
            connection.next_address(url, answer.headers.get("location", ""), "this request")
            raise RefusedError(
                f"the registry {self.name.host} redirects {url[:200]}", expected="an answer"
            )
        return answer

    def manifest(self, version: str) -> ManifestDocument:
        """The manifest or index of a tag or digest.

        Raises:
            SourceError: There is none.
            RefusedError: Its bytes are not those of its digest.
        """
        document = self.find_manifest(version)
        if document is None:
            raise SourceError(
                f"the registry {self.name.host} has no {self.name.repository} at {version}",
                expected="a name and a tag that were pushed",
            )
        return document

    def find_manifest(self, version: str) -> ManifestDocument | None:
        """The manifest or index of a tag or digest; None where there is none."""
        answer = self.ask("GET", f"{self.url}/manifests/{version}", {"Accept": _ACCEPT})
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self.refusal(answer, "the manifest")
        digest = manifests.digest_of(answer.body)
        wanted = version if ":" in version else answer.headers.get("docker-content-digest", digest)
        if digest != wanted:
            raise RefusedError(
                f"the registry {self.name.host} sent a manifest with the digest {digest[:23]}…",
                expected=f"{wanted[:23]}…, as it says itself",
                todo="do not use this registry before its operator has looked at it",
            )
        return manifests.read_document(answer.body, f"{self.name.repository}@{version[:23]}")

    def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, held to its digest."""
        if descriptor.size > connection.MOST_TEXT:
            raise RefusedError(
                f"{descriptor.digest[:23]}… has {descriptor.size} bytes",
                expected=f"at most {connection.MOST_TEXT} for {descriptor.media_type}",
            )
        answer = self.ask("GET", f"{self.url}/blobs/{descriptor.digest}")
        if answer.status != 200:
            raise self.refusal(answer, f"the blob {descriptor.digest[:23]}…")
        if manifests.digest_of(answer.body) != descriptor.digest:
            raise wrong_digest(self.name.host, descriptor)
        return answer.body

    def put_manifest(self, data: bytes, media_type: str, version: str) -> Mapping[str, str]:
        """Write a manifest or index under a tag or its digest; returns the headers of the answer.

        Args:
            data: The manifest.
            media_type: What it is.
            version: The tag or digest.
        """
        url = f"{self.url}/manifests/{version}"
        answer = self.ask("PUT", url, {"Content-Type": media_type}, data)
        if answer.status not in (200, 201, 202):
            raise self.refusal(answer, "the manifest")
        stored = answer.headers.get("docker-content-digest")
        if stored and stored != manifests.digest_of(data):
            raise RefusedError(
                f"the registry {self.name.host} stored {stored[:23]}…",
                expected=f"{manifests.digest_of(data)[:23]}…, as it was sent",
            )
        return answer.headers

    def referrers(self, digest: str) -> list[Descriptor]:
        """Manifests whose subject is another one, as the registry lists them."""
        answer = self.ask("GET", f"{self.url}/referrers/{digest}", {"Accept": IMAGE_INDEX})
        if answer.status == 200:
            document = manifests.read_document(answer.body, "the list of referrers")
        else:
            fallback = self.find_manifest(fallback_tag(digest))
            if fallback is None:
                return []
            document = fallback
        return list(document.children[:MOST_REFERRERS]) if document.is_index else []

    def attach(self, subject: Descriptor, referring: Sequence[ManifestDocument]) -> None:
        """Write manifests that refer to `subject`, listed also where a registry does not list.

        Args:
            subject: What they are about.
            referring: With `subject` in each.
        """
        unlisted: list[Descriptor] = []
        for manifest in referring:
            own = manifest.described()
            headers = self.put_manifest(manifest.data, IMAGE_MANIFEST, own.digest)
            if headers.get("oci-subject") != subject.digest:
                unlisted.append(own)
        if not unlisted:
            return
        tag = fallback_tag(subject.digest)
        listed = self.find_manifest(tag)
        children = list(listed.children) if listed is not None and listed.is_index else []
        known = {child.digest for child in children}
        new = [own for own in unlisted if own.digest not in known]
        if new:
            index = {
                "schemaVersion": 2,
                "mediaType": IMAGE_INDEX,
                "manifests": [child.to_dict() for child in (*children, *new)],
            }
            self.put_manifest(manifests.encoded(index), IMAGE_INDEX, tag)

    def refusal(self, answer: RegistryAnswer, what: str) -> SourceError:
        """What an answer without success is for who asked."""
        host = self.name.host
        if answer.status in (401, 403):
            return SourceError(
                f"the registry {host} refuses {what} of {self.name.repository}{_reason(answer)}",
                expected="a log-in that may do this",
                todo=f"docker login {host}",
            )
        return SourceError(
            f"the registry {host} answers HTTP {answer.status} for {what}{_reason(answer)}",
            expected=f"a registry at {urlsplit(self.url).netloc} that has {self.name.repository}",
        )


def fallback_tag(digest: str) -> str:
    """The tag that lists referrers where a registry has no list of them."""
    return quote(digest.replace(":", "-"))


def wrong_digest(host: str, descriptor: Descriptor) -> RefusedError:
    """For bytes that are not those of their digest."""
    return RefusedError(
        f"the registry {host} sent other bytes than those of {descriptor.digest[:23]}…",
        expected="the blob that its manifest names",
        todo="do not use this registry before its operator has looked at it",
    )


def _reason(answer: RegistryAnswer) -> str:
    """What a registry says of an error, in a few words."""
    try:
        message = json.loads(answer.body)["errors"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError, FormatError):
        return ""
    return f": {re.sub(r'[^ -~]+', ' ', str(message))[:200]}"
