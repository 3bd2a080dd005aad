"""What several servers share: PostgreSQL, real, and what happens when it is away."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from helpers import fleets
from helpers.fleet_crowds import bad_rollout
from helpers.fleets import ServerProcess
from helpers.postgresql import Cluster

from kanna import fleet
from kanna.errors import KannaError, RefusedError, UsageError
from kanna.fleet import databases
from kanna.fleet.controller import Controller
from kanna.fleet.databases import DatabaseAwayError, TakenError, postgresql
from kanna.fleet.device.polling import agent
from kanna.fleet.rings import Ring
from kanna.fleet.store import FleetStore

GOOD, BETTER = b"good 1" * 1000, b"good 2" * 1000
ANY = "a" * 64


def test_two_servers_share_a_database_and_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    place = cluster.database()
    with fleets.here(tmp_path, place=place) as first, fleets.here(tmp_path, place=place) as second:
        first.add("pi")
        first.publish(GOOD)
        number = second.rollout()
        assert first.agent("pi").outcome == "passed"
        second.until(number, "done")
        first.published = second.published = 1
        second.publish(BETTER)
        number = first.rollout()
        assert second.agent("pi").outcome == "passed" and first.content("pi") == BETTER
        first.until(number, "done")
        with pytest.raises(KannaError, match="there is a device 'pi'"):
            second.add("pi")
        [listed] = fleet.devices(server=second.server).devices
        assert listed["reported"] == listed["wanted"] and listed["outcome"] == "passed"


def test_a_file_that_the_other_server_has_is_asked_for_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    place = cluster.database()
    with fleets.here(tmp_path, place=place) as here:
        here.add("pi")
        here.publish(GOOD)
        number = here.rollout()
        (tmp_path / "blobs").rename(tmp_path / "elsewhere")
        (tmp_path / "blobs").mkdir()
        result = here.agent("pi")
        assert result.outcome == "unreachable" and "servers share --state" in result.detail
        (tmp_path / "blobs").rmdir()
        (tmp_path / "elsewhere").rename(tmp_path / "blobs")
        assert here.agent("pi").outcome == "passed"
        here.until(number, "done")


def fifty(store: FleetStore) -> list[int]:
    """Numbers of a counter."""
    return [store.next("n") for _ in range(50)]


def test_servers_write_one_after_another(cluster: Cluster) -> None:
    place = cluster.database()
    with closing(FleetStore(place)) as one, closing(FleetStore(place)) as other:
        assert one.leads() and one.leads() and not other.leads()
        with ThreadPoolExecutor(2) as both:
            made = both.map(fifty, (one, other))
            assert sorted(sum(made, [])) == [*range(1, 101)]
            one.add_artefact(ANY, 1, "m", 1, ("{}", None))
            Controller(one).add_device("pi")
            started: list[int] = []

            def start(store: FleetStore) -> None:
                with suppress(UsageError):
                    started.append(Controller(store).start(ANY, (Ring(percent=100),)).id)

            list(both.map(start, (one, other)))
        assert started == [1], "a device is in one rollout at a time"
        with pytest.raises(TakenError):
            other.add_artefact(ANY, 1, "m", 1, ("{}", None))
        one.close()
        fleets.wait_for(other.leads)


def test_a_rollout_that_the_other_server_stopped_stays_so(cluster: Cluster) -> None:
    place = cluster.database()
    with closing(FleetStore(place)) as one, closing(FleetStore(place)) as other:
        one.add_artefact(ANY, 1, "m", 1, ("{}", None))
        controllers = Controller(one), Controller(other)
        for name in ("a", "b"):
            controllers[0].add_device(name)
        number = controllers[0].start(ANY, (Ring(percent=50), Ring(percent=100))).id
        controllers[1].rollback(number)
        controllers[0].tick(1e9)
        rollout = one.rollout(number)
        assert rollout is not None and rollout.state == "rolled back"


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_model_never_leaves_the_first_ring(cluster: Cluster, seed: int) -> None:
    with closing(FleetStore(cluster.database())) as store:
        bad_rollout(store, random.Random(seed))


def test_a_server_that_hangs_lets_the_others_write(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tuple(line.replace("'30s'", "'1s'") for line in postgresql._SESSION)  # pyright: ignore[reportPrivateUsage]
    assert session != postgresql._SESSION  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(postgresql, "_SESSION", session)
    place = cluster.database()
    with closing(FleetStore(place)) as hanging, closing(FleetStore(place)) as other:
        with pytest.raises(DatabaseAwayError), hanging.transaction():
            hanging.note("lost")
            other.note("kept")  # waits until the database ends the transaction of the other
            hanging.note("lost, too")
        hanging.note("later")
        assert [one["kind"] for one in other.events()] == ["later", "kept"]


def test_a_database_that_is_away_ends_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with fleets.here(tmp_path, place=cluster.database()) as here:
        here.add("pi")
        here.publish(GOOD)
        number = here.rollout()
        cluster.stop()
        try:
            result = here.agent("pi")
            assert result.outcome == "unreachable" and "does not answer" in result.detail
            with pytest.raises(KannaError, match="does not answer"):
                fleet.status(server=here.server)
        finally:
            cluster.start()
        assert here.agent("pi").outcome == "passed"
        here.until(number, "done")


WRONG: dict[str, tuple[str, type[KannaError], str]] = {
    "another database": ("mysql://x/y", UsageError, "names 'mysql'"),
    "no address": ("postgresql://x/y?nonsense=1", UsageError, "is no address"),
    "nobody": ("postgresql://fleet:geheim@127.0.0.1:9/x", DatabaseAwayError, "at 127.0.0.1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_database_is_refused(case: str) -> None:
    pytest.importorskip("psycopg")
    place, kind, words = WRONG[case]
    with pytest.raises(kind, match=words) as caught:
        databases.opened(place)
    assert "geheim" not in str(caught.value)


def test_offline_no_other_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("KANNA_OFFLINE", "1")
    with pytest.raises(RefusedError, match=r"forbids a connection to db\.example"):
        databases.opened("postgresql://db.example/fleet")


def poll_at(urls: list[str], folder: Path, check: Path, digest: str) -> None:
    """Let an agent ask one server after another until it has what it should."""
    end = time.monotonic() + 120
    while True:
        for url in urls:
            key = folder / "pi.key"
            result = agent(folder / "pi", server=url, key_file=key, self_test=str(check), once=True)
            if result.outcome == "passed" and result.current == digest:
                return
        assert time.monotonic() < end


@pytest.mark.slow
def test_kill_9_of_one_of_two_servers_is_no_end(cluster: Cluster, tmp_path: Path) -> None:
    state, check = tmp_path / "state", tmp_path / "check.sh"
    check.write_text(fleets.CHECK)
    check.chmod(0o755)
    options = ("--port", "0", "--poll", "1", "--database", cluster.database())
    servers = [ServerProcess(state, *options) for _ in range(2)]
    try:
        key_file = state / "operator.key"
        at = [fleet.FleetServer(url=one.url, key_file=key_file) for one in servers]
        (tmp_path / "pi.key").write_text(fleet.add_device("pi", server=at[0]).key)
        for n, content in enumerate((GOOD, BETTER, GOOD)):
            model = fleets.model(tmp_path / f"m{n}", content)
            digest = fleet.publish(model, server=at[-1]).digest
            number = fleet.rollout(server=at[-1], ring="100%").rollout["id"]
            if n == 1:
                os.kill(servers[0].process.pid, signal.SIGKILL)
            poll_at([one.url for one in servers], tmp_path, check, digest)

            def done(number: int = number) -> bool:
                one = next(
                    r for r in fleet.status(server=at[-1]).status["rollouts"] if r["id"] == number
                )
                return one["state"] == "done"

            fleets.wait_for(done)
    finally:
        for server in servers:
            server.stop()
