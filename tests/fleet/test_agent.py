"""Agents against a server on loopback: what comes is whole, checked and tested, or not used."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fleets
from helpers.fleets import HereFleet

from kanna import fleet
from kanna._util import locks
from kanna.errors import KannaError, OutputError, UsageError
from kanna.fleet import manifest
from kanna.fleet.device import fetching
from kanna.fleet.device.versions import DeviceFolder

GOOD, BETTER, BAD = b"good 1" * 50_000, b"good 2" * 50_000, b"bad" * 100_000


@pytest.fixture
def here(tmp_path: Path, new_place: Callable[[Path], str | Path]) -> Iterator[HereFleet]:
    """A fleet of one device, pi."""
    with fleets.here(tmp_path / "fleet", place=new_place(tmp_path)) as running:
        running.add("pi")
        yield running


@pytest.fixture
def settled(here: HereFleet) -> HereFleet:
    """The same, where the device has a good model."""
    here.publish(GOOD)
    here.until(begin(here), "done")
    return here


def begin(here: HereFleet, **options: Any) -> int:
    """Roll out what was published last, with one question of the device."""
    number = here.rollout()
    here.agent("pi", **options)
    return number


def test_a_device_gets_what_is_rolled_out(settled: HereFleet) -> None:
    assert settled.content("pi") == GOOD
    again = settled.agent("pi")
    assert again and again.outcome == "nothing to do" and again.model
    assert Path(again.model).read_bytes() == GOOD
    digest = settled.publish(BETTER)
    settled.until(begin(settled), "done")
    assert settled.content("pi") == BETTER
    [listed] = fleet.devices(server=settled.server).devices
    assert listed["reported"] == listed["wanted"] == digest and listed["outcome"] == "passed"
    versions = settled.home("pi") / "versions"
    assert len([*versions.iterdir()]) == 2, "the last good one is kept"


def test_a_bad_model_is_never_current(settled: HereFleet) -> None:
    settled.publish(BAD)
    number = settled.rollout()
    result = settled.agent("pi")
    assert not result and result.outcome == "failed" and "tokens: 7, not 5" in result.detail
    assert settled.content("pi") == GOOD
    settled.until(number, "stopped")
    assert settled.agent("pi"), "it is sent back to what it has"
    assert len([*(settled.home("pi") / "versions").iterdir()]) == 1
    status = fleet.status(server=settled.server)
    assert not status and "1 of 1 devices of ring 1 failed" in status.headline()
    [listed] = fleet.devices(server=settled.server).devices
    assert json.loads(listed["selftest"])["checks"][0]["detail"] == "7, not 5"


def test_a_device_is_sent_back_without_fetching(settled: HereFleet) -> None:
    settled.publish(BETTER)
    number = begin(settled)
    settled.until(number, "done")
    fetched = len(settled.weather.ranges)
    fleet.rollback(number, server=settled.server)
    assert settled.agent("pi") and settled.content("pi") == GOOD
    assert len(settled.weather.ranges) == fetched
    assert not settled.agent("pi").detail, "and stays there"


def test_a_cut_download_goes_on_where_it_stopped(here: HereFleet) -> None:
    here.publish(GOOD)
    here.rollout()
    here.weather.cuts += [100_000, 0, 0, 0]
    cut = here.agent("pi")
    assert cut.outcome == "unreachable" and cut.current is None
    assert here.agent("pi").outcome == "passed" and here.content("pi") == GOOD
    assert here.weather.ranges[1] == "bytes=100000-"
    resumed = {text for text in here.weather.ranges if text}
    assert resumed == {"bytes=100000-"}, "nothing was fetched twice"


def test_only_what_changed_is_fetched(here: HereFleet) -> None:
    before = b"good" + np.random.default_rng(1).bytes(3_000_000)
    after = before[:1_000_000] + b"tuned" * 10_000 + before[1_050_000:]
    for content in (before, after):
        here.publish(content)
        here.until(begin(here), "done")
        assert here.content("pi") == content
    [some] = [text for text in here.weather.ranges if text]
    first, last = map(int, some.removeprefix("bytes=").split("-"))
    assert first <= 1_000_000 and last >= 1_049_999 and last - first < 500_000
    pieces = next((here.folder / "blobs").glob(f"{sha256(after).hexdigest()}.pieces.json"))
    assert len(json.loads(pieces.read_text())["sizes"]) > 10


def test_a_damaged_part_is_fetched_anew(here: HereFleet) -> None:
    here.publish(GOOD)
    here.rollout()
    here.weather.cuts += [100_000, 0, 0, 0]
    here.agent("pi")
    [part] = [p for p in (here.home("pi") / "parts").iterdir() if p.stat().st_size]
    part.write_bytes(b"x" * 100_000)
    assert here.agent("pi").outcome == "passed" and here.content("pi") == GOOD


def test_a_file_that_is_here_is_not_fetched(settled: HereFleet) -> None:
    settled.publish(GOOD)
    fetched = len(settled.weather.ranges)
    assert begin(settled) and settled.content("pi") == GOOD
    assert len(settled.weather.ranges) == fetched


def lying_file(here: HereFleet, digest: str) -> None:
    """The server has other bytes of the same length under the hash of the model."""
    text = here.store.artefact(digest)
    assert text is not None
    described = manifest.read(text[0].encode(), "m")
    [file] = [one for one in described.files if one.path == "m.gguf"]
    path = here.folder / "blobs" / file.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_a_server_that_lies_about_a_file_is_refused(settled: HereFleet) -> None:
    lying_file(settled, settled.publish(BETTER))
    number = settled.rollout()
    result = settled.agent("pi")
    assert result.outcome == "refused" and "another hash" in result.detail
    assert settled.content("pi") == GOOD
    settled.until(number, "stopped")


CHANGES = {
    "another manifest": lambda text: text.replace('"sequence": ', '"sequence": 1'),
    "a path outside": lambda text: text.replace("m.gguf", "../m.gguf"),
    "no JSON": lambda text: text[:-10],
    "no files": lambda text: json.dumps(json.loads(text) | {"files": []}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_server_that_lies_about_a_manifest_is_refused(settled: HereFleet, case: str) -> None:
    digest = settled.publish(BETTER)
    settled.rollout()
    texts = settled.store.artefact(digest)
    assert texts is not None
    changed = CHANGES[case](texts[0])
    assert changed != texts[0]
    settled.store._rows("UPDATE models SET manifest = ? WHERE digest = ?", changed, digest)  # pyright: ignore[reportPrivateUsage]
    result = settled.agent("pi")
    assert result.outcome == "refused" and "manifest" in result.detail
    assert settled.content("pi") == GOOD


def test_an_older_model_is_refused_whatever_the_server_wants(settled: HereFleet) -> None:
    [first] = fleet.status(server=settled.server).status["artefacts"]
    for content in (BETTER, b"good 3"):
        settled.publish(content)
        settled.until(begin(settled), "done")
    settled.rollout(artefact=first["digest"])
    result = settled.agent("pi")
    assert result.outcome == "refused" and "a downgrade" in result.detail
    assert settled.content("pi") == b"good 3"


def test_a_replayed_instruction_is_refused(settled: HereFleet) -> None:
    settled.publish(BETTER)
    settled.until(begin(settled), "done")
    device = settled.store.device("pi")
    assert device is not None
    old = settled.store.artefacts()[-1]["digest"]
    settled.store.want("pi", old, device.number - 1)
    result = settled.agent("pi")
    assert result.outcome == "refused" and "replayed" in result.detail
    assert settled.content("pi") == BETTER


def test_a_disk_without_room_is_no_fault_of_the_model(
    settled: HereFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.publish(BETTER)
    number = settled.rollout()
    monkeypatch.setattr(DeviceFolder, "free", lambda _: 1000)
    result = settled.agent("pi")
    assert result.outcome == "unable" and "1000 are free" in result.detail
    assert settled.content("pi") == GOOD
    settled.until(number, "running")
    monkeypatch.undo()
    settled.agent("pi")
    settled.until(number, "done")
    assert settled.content("pi") == BETTER


def test_a_disk_that_fills_meanwhile_is_left_as_it_was(
    settled: HereFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.publish(BETTER)
    settled.rollout()

    def full(*_: Any) -> int:
        raise OutputError("the disk takes no more")

    monkeypatch.setattr(fetching, "_write", full)
    assert settled.agent("pi").outcome == "unable" and settled.content("pi") == GOOD
    monkeypatch.undo()
    assert settled.agent("pi").outcome == "passed" and settled.content("pi") == BETTER


def test_a_test_that_cannot_be_made_and_one_without_end(settled: HereFleet) -> None:
    settled.publish(b"none")
    number = settled.rollout()
    assert settled.agent("pi").outcome == "unable"
    fleet.rollback(number, server=settled.server)
    settled.publish(b"slow")
    settled.rollout()
    result = settled.agent("pi", test_limit=0.2)
    assert result.outcome == "failed" and "more than 0.2 s" in result.detail
    assert settled.content("pi") == GOOD


def test_a_service_that_does_not_start_brings_the_version_before_back(settled: HereFleet) -> None:
    settled.publish(BETTER)
    number = settled.rollout()
    command = 'grep -q "good 1" current/model.gguf'
    result = settled.agent("pi", on_swap=command)
    assert result.outcome == "failed" and "--on-swap ended with 1" in result.detail
    assert settled.content("pi") == GOOD
    settled.until(number, "stopped")
    assert settled.agent("pi", on_swap=command) and settled.content("pi") == GOOD


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    if not private.exists():
        make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]
        subprocess.run([*make, private], check=True)
        show = ["openssl", "ec", "-in", private, "-pubout", "-out", public]
        subprocess.run(show, check=True, capture_output=True)
    return private, public


def test_with_a_public_key_only_what_its_owner_signed_comes(
    here: HereFleet, tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path, "ours")
    _, other = key_pair(tmp_path, "other")
    here.publish(GOOD, sign_key=private)
    refused = here.rollout()
    result = here.agent("pi", key=other)
    assert result.outcome == "refused" and "signature does not hold" in result.detail
    here.until(refused, "stopped")
    here.until(begin(here, key=public), "done")
    assert here.content("pi") == GOOD
    here.publish(BETTER)
    begin(here, key=public)
    assert here.content("pi") == GOOD
    assert "not signed" in fleet.devices(server=here.server).devices[0]["detail"]
    with pytest.raises(UsageError, match="the key .* does not exist"):
        here.agent("pi", key=tmp_path / "absent.pem")


def test_wrong_and_expired_keys_are_refused_and_end_nothing(
    settled: HereFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.publish(BETTER)
    settled.rollout()
    key = settled.folder / "pi.key"
    text = key.read_text()
    key.write_text(text[:-1] + ("a" if text[-1] != "a" else "b"))
    assert settled.agent("pi").outcome == "denied" and settled.content("pi") == GOOD
    key.write_text(fleet.renew_key("pi", server=settled.server, days=1).key)
    other = settled.folder / "old.key"
    other.write_text(text)
    assert settled.agent("pi", key_file=other).outcome == "denied"
    now = fleets.time.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kanna.fleet.access.time.time", lambda: now + 86_401)
        assert settled.agent("pi").outcome == "denied"
    assert settled.agent("pi").outcome == "denied", "a clock that is set back changes nothing"
    key.write_text(fleet.renew_key("pi", server=settled.server).key)
    assert settled.agent("pi").outcome == "passed" and settled.content("pi") == BETTER


def test_keys_go_over_plain_http_to_this_machine_alone(settled: HereFleet) -> None:
    far = fleet.FleetServer(url="http://fleet.example", key_file=settled.folder / "pi.key")
    with pytest.raises(UsageError, match="in plain text"):
        fleet.status(server=far)
    with pytest.raises(UsageError, match="no address"):
        fleet.status(server=fleet.FleetServer(url="ftp://x"))
    with pytest.raises(KannaError, match="does not answer"):
        nobody = fleet.FleetServer(url="http://127.0.0.1:9", key_file=settled.folder / "pi.key")
        fleet.status(server=nobody)


def test_one_agent_per_folder(settled: HereFleet) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.holding(settled.home("pi") / "agent", "agent"):
            taken.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    try:
        assert taken.wait(30)
        with pytest.raises(OutputError, match="is being written by another thread"):
            settled.agent("pi")
    finally:
        done.set()
        other.join()


def test_a_folder_that_was_damaged_is_mended(settled: HereFleet) -> None:
    home = settled.home("pi")
    (home / "agent.json").write_text("{")
    shutil.rmtree(home / "versions")
    assert settled.agent("pi").outcome == "passed" and settled.content("pi") == GOOD


def test_versions_are_swapped_by_one_rename(
    settled: HereFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step that writes, `current` names a whole model that passed."""
    settled.publish(BETTER)
    settled.rollout()
    steps: list[str] = []
    for name in ("swap", "complete", "remember", "tidy", "keep_record"):
        real = getattr(DeviceFolder, name)

        def watched(self: DeviceFolder, *given: Any, real: Any = real, name: str = name) -> Any:
            assert settled.content("pi") in (GOOD, BETTER)
            done = real(self, *given)
            assert settled.content("pi") in (GOOD, BETTER)
            steps.append(name)
            return done

        monkeypatch.setattr(DeviceFolder, name, watched)
    assert settled.agent("pi").outcome == "passed"
    assert settled.content("pi") == BETTER and {"swap", "complete"} <= {*steps}
