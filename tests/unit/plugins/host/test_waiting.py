"""query and http from a plugin that was not put on a worker thread: never."""

from proxy.plugins.host.guest import UNAVAILABLE
from proxy.plugins.host.services import HttpFetcher, QueryRunner, Services
from proxy.plugins.host.waiting import http, query
from tests.support.wat import fake_guest


class Never(QueryRunner, HttpFetcher):
    def run(self, plugin, sql, parameters):
        raise AssertionError("would stall the loop")

    def fetch(self, plugin, request):
        raise AssertionError("would stall the loop")


def test_the_event_loop_is_never_made_to_wait():
    services = Services(queries=Never(), http=Never())
    guest = fake_guest(services=services)
    assert query(guest, 0, 1, 0, 0, 0, 10) == UNAVAILABLE
    assert http(guest, 0, 1, 0, 10) == UNAVAILABLE
