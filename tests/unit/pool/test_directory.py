"""What a client's database, user and branch mean."""

from proxy.pool import directory as directory_module
from proxy.pool.directory import Directory
from proxy.pool.nodes import Nodes
from proxy.pool.plan import DatabasePlan
from proxy.routing.node import ROLE_UNKNOWN
from tests.unit.pool.fakes import make_plan


def make() -> Directory:
    plan = make_plan()
    plan.databases["app"] = DatabasePlan("app", "app_v2", "svc", ("pg1", "gone"), 7, "session", 9)
    nodes = Nodes(0)
    for node in plan.nodes:
        nodes.add(node.name, ROLE_UNKNOWN, 1, 0.0)
    return Directory(plan, nodes)


def test_names_are_mapped() -> None:
    found = make().find("app", "alice")
    assert found is not None
    assert (found.database, found.user, found.mode) == ("app_v2", "svc", "session")
    assert (found.client_database, found.client_user, found.branch) == ("app", "alice", "")
    assert (found.size, found.max_connections) == (7, 9)
    assert [node.name for node in found.candidates.nodes] == ["pg1"]


def test_the_star_keeps_the_clients_names() -> None:
    found = make().find("other", "alice")
    assert found is not None
    assert (found.database, found.user) == ("other", "alice")


def test_the_same_question_has_the_same_answer_until_it_is_cleared() -> None:
    directory = make()
    found = directory.find("app", "alice")
    assert directory.find("app", "alice") is found
    assert directory.find("app", "bob") is not found
    branch = directory.find_branch("dev", "app", "alice")
    assert directory.find_branch("dev", "app", "alice") is branch
    directory.clear()
    assert directory.find("app", "alice") is not found
    assert directory.find_branch("dev", "app", "alice") is not branch


def test_a_branch_keeps_the_user_and_the_mode_of_the_database() -> None:
    found = make().find_branch("dev", "app", "alice")
    assert found is not None
    assert (found.database, found.user, found.mode) == ("app_dev", "svc", "session")
    assert [node.name for node in found.candidates.nodes] == ["pg2"]


def test_what_does_not_exist() -> None:
    directory = make()
    assert directory.find_branch("nope", "app", "alice") is None
    del directory.plan.databases["*"]
    assert directory.find("other", "alice") is None
    assert directory.find_branch("dev", "other", "alice") is None
    found = directory.find_branch("dev", "app", "alice")
    assert found is not None
    assert found.size == 7


def test_the_cache_is_bounded() -> None:
    directory = make()
    first = directory.find("app", "alice")
    for i in range(directory_module.MAX_CACHED):
        directory.find(f"db{i}", "alice")
    assert directory.find("app", "alice") is not first
