"""HTTP for plugins: to listed hosts, bounded in time and size, and nothing clever."""

import contextlib
import http.server
import json
import threading

import pytest

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    DENIED,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.http import AllowedHttp
from proxy.settings.plugin_model import PluginHttp


class Handler(http.server.BaseHTTPRequestHandler):
    release = threading.Event()

    def do_GET(self):
        if self.path == "/slow":
            self.release.wait(10)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.invalid/")
            self.end_headers()
            return
        body = {"/big": b"x" * 2000, "/binary": b"\xff\xfe"}.get(self.path, b"hello")
        self.send_response(200)
        self.send_header("X-Seen", self.headers.get("X-Mine", ""))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.send_response(201)
        self.end_headers()
        self.wfile.write(self.rfile.read(length).upper())

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def port():
    Handler.release.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    Handler.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetcher(port):
    allowed = (f"127.0.0.1:{port}", "127.0.0.1:1")
    return AllowedHttp(PluginHttp(allow_hosts=allowed, timeout=0.5, max_response=1000))


def fetch(fetcher, **request):
    return json.loads(fetcher.fetch("p", json.dumps(request).encode()))


def code_of(fetcher, **request):
    with pytest.raises(HostFault) as caught:
        fetch(fetcher, **request)
    return caught.value.code


def test_get_and_post(fetcher, port):
    url = f"http://127.0.0.1:{port}/"
    answer = fetch(fetcher, url=url, headers={"X-Mine": "yes"})
    assert (answer["status"], answer["body"]) == (200, "hello")
    assert answer["headers"]["x-seen"] == "yes"
    assert fetch(fetcher, url=url, method="POST", body={"a": 1})["body"] == '{"A": 1}'
    assert fetch(fetcher, url=url + "binary")["body_base64"] == "//4="


def test_a_redirect_is_an_answer_and_not_followed(fetcher, port):
    assert fetch(fetcher, url=f"http://127.0.0.1:{port}/redirect")["status"] == 302


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "http://127.0.0.1:2/",
        "https://127.0.0.1/",
        "http://127.0.0.1.evil.invalid/",
    ],
)
def test_other_hosts_are_denied(fetcher, url):
    assert code_of(fetcher, url=url) == DENIED


def test_limits(fetcher, port):
    url = f"http://127.0.0.1:{port}"
    assert code_of(fetcher, url=url + "/big") == TOO_LARGE
    assert code_of(fetcher, url=url + "/slow") == TIMED_OUT
    assert code_of(fetcher, url="http://127.0.0.1:1/") == UNAVAILABLE
    assert code_of(fetcher, url=url, body="x" * 300_000) == TOO_LARGE
    assert code_of(fetcher, url=url, headers={f"h{n}": "v" for n in range(60)}) == TOO_LARGE


@pytest.mark.parametrize(
    "request_json",
    [
        {}, {"url": 5}, {"url": "ftp://127.0.0.1/"}, {"url": "http:///x"},
        {"url": "http://user:pw@127.0.0.1/"}, {"url": "http://127.0.0.1:99999/"},
        {"url": "http://a/", "method": "TRACE"}, {"url": "http://a/", "headers": {"Host": "b"}},
        {"url": "http://a/", "headers": {"X": 1}}, {"url": "http://a/", "headers": [1]},
    ],
)  # fmt: skip
def test_bad_requests(fetcher, request_json):
    assert code_of(fetcher, **request_json) == BAD_ARGUMENT


def test_header_injection_is_refused(fetcher, port):
    url = f"http://127.0.0.1:{port}/"
    assert code_of(fetcher, url=url, headers={"X": "a\r\nY: b"}) == BAD_ARGUMENT
    with pytest.raises(HostFault):
        fetcher.fetch("p", b"not json")
