"""The demo's data: it loads, and another user may use it."""

import psycopg

from proxy.demo import sample
from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.ports import take_port


def test_sample_loads_and_other_users_may_write(workspace: Workspace) -> None:
    server = EmbeddedPostgres(workspace, "sample", take_port())
    server.start()
    sample.load(server, ('odd "user"',))
    counts = server.execute(
        "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders), "
        "(SELECT sum(orders) FROM report_by_region)",
        dbname=sample.DATABASE,
    )
    assert counts == [(200, 5000, 5000)]
    dsn = server.dsn(dbname=sample.DATABASE, user='odd "user"')
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO customers (name, region) VALUES ('x', 'north')")
    server.stop(immediate=True)
