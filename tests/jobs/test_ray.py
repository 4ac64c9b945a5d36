"""Jobs on a Ray cluster of two nodes with pretended GPUs: one killed, one node lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from aim_plugins import cli
from tests.jobs.conftest import Yard, until

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80 * 2**20}
    node["include_dashboard"] = False
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_jobs_of_which_one_is_killed_find_what_one_process_finds(
    cluster, yard: Yard, alone, capsys
) -> None:
    """And one that is always killed is named with its log."""
    jobs = [yard.toy(one, die="once" if one == 3 else None) for one in range(8)]
    jobs.append(yard.toy(8, die="always"))
    assert cli.main(["jobs", str(yard.write(jobs, gpus=1)), "--on", "ray"]) == 1
    assert yard.rows() == alone(*range(8))
    assert Counter(yard.started()) == {f"[{one}]": 1 + (one in (3, 8)) for one in range(9)}
    said = capsys.readouterr().err
    assert f"job8 killed by signal 9: measuring ({yard.output}/job8/log.txt)" in said


def test_jobs_of_a_lost_node_run_elsewhere(cluster, yard: Yard, alone) -> None:
    jobs = [yard.toy(one, wait=True) for one in range(8)]
    front = yard.front(
        yard.write(jobs, gpus=1, ray={"address": cluster.address}, retries=2), "--on", "ray"
    )
    until(lambda: len(yard.started()) == 4)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    until(lambda: len(yard.alive()) == 2)  # those of the other node
    yard.gate.touch()
    assert front.wait(120) == 0, front.stderr.read()
    front.stderr.close()
    assert yard.rows() == alone(*range(8))
    assert sorted(Counter(yard.started()).values()) == [1] * 6 + [2] * 2
