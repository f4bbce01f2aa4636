"""Fetching by URL: what must not be reached is not, and what is allowed arrives."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from uniemox.files.images import Unreadable
from uniemox.serve.urls import fetch, is_public

INNER = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00::1", "ff02::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8"),
    *("2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::", "2001:db8::1", "nonsense", "", "0x7f000001", "2130706433"),
]


@pytest.mark.parametrize("address", INNER)
def test_an_address_of_an_inner_network_is_not_public(address):
    assert not is_public(address, 80)
    assert not is_public(address, 443)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"])
def test_an_address_of_the_internet_is_public_on_ports_of_the_web_alone(address):
    assert is_public(address, 80)
    assert is_public(address, 443)
    assert not any(is_public(address, port) for port in (22, 25, 8080, 6379))


@pytest.fixture
def server():
    """A server that counts who came; its paths say what it answers."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append((self.path, self.headers["Host"]))
            name, _, rest = self.path.lstrip("/").partition("/")
            if name == "to":
                self.send_response(302)
                self.send_header("Location", rest)
                self.end_headers()
            elif name == "drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif name == "bytes":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"x" * int(rest))
            else:
                self.send_response(int(name) if name.isdigit() else 404)
                self.end_headers()

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_):  # those that are cut off
            pass

    with Quiet(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.came = came
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()
        thread.join()


def everything(address, port):
    return True


def get(url, **options):
    return fetch(url, **{"max_bytes": 1000, "seconds": 5.0, **options})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "0x7f.1", "2130706433", "[::1]"])
def test_this_machine_is_not_reached_however_it_is_written(server, host):
    found = get(f"http://{host}:{server.server_port}/bytes/5")
    assert isinstance(found, Unreadable)
    assert server.came == []


def test_a_name_that_resolves_to_an_inner_address_is_refused(server):
    for addresses in (["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], []):
        found = get("http://public.example/", resolve=lambda host, port, addresses=addresses: addresses)
        assert found == Unreadable("the URL's host or port is not a public one")
    assert server.came == []


def test_the_address_that_was_checked_is_the_one_that_is_reached(server):
    asked = []

    def resolve(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["203.0.113.1"]

    found = get(f"http://rebound.example:{server.server_port}/bytes/5", resolve=resolve, allow=everything)
    assert found == b"xxxxx"
    assert asked == ["rebound.example"]
    assert server.came[0][1] == f"rebound.example:{server.server_port}"


def test_a_redirect_is_checked_again(server):
    def allow(address, port):  # the server itself, as if it were public
        return (address, port) == ("127.0.0.1", server.server_port)

    assert get(f"{server.url}/to//bytes/3", allow=allow) == b"xxx"
    with socket.create_server(("127.0.0.1", 0)) as inner:
        inner.settimeout(0.05)
        target = f"http://127.0.0.1:{inner.getsockname()[1]}/"
        assert get(f"{server.url}/to/{target}", allow=allow) == Unreadable("the URL's host or port is not a public one")
        with pytest.raises(TimeoutError):
            inner.accept()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x.org/a", "gopher://127.0.0.1/", "http://a:b@x.org/"])
def test_a_redirect_to_another_scheme_is_not_followed(server, target):
    assert isinstance(get(f"{server.url}/to/{target}", allow=everything), Unreadable)


def test_redirects_come_to_an_end(server):
    found = get(f"{server.url}/to/{server.url}/to/to/to/to/to", allow=everything)
    assert isinstance(found, Unreadable)
    assert len(server.came) <= 4


def test_content_is_limited_in_bytes_and_time(server):
    assert get(f"{server.url}/bytes/1000", allow=everything) == b"x" * 1000
    assert "more than 1000 bytes" in get(f"{server.url}/bytes/1001", allow=everything).reason
    start = time.monotonic()
    assert "in time" in get(f"{server.url}/drip", allow=everything, seconds=0.4).reason
    assert time.monotonic() - start < 2


def test_other_answers_are_reasons(server):
    assert get(f"{server.url}/403", allow=everything) == Unreadable("the URL answers with 403")
    server.socket.close()
    assert "cannot be fetched" in get("http://127.0.0.1:9/", allow=everything).reason


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "/etc/passwd", "file:///etc/passwd", "data:image/png,x", "http://", "http://[", "http://a:99999/"),
        *("http://a b.org/", "http://a.org/\r\nHost: b", "http://ä.org/", "http://u@x.org/", "https://" + "x" * 3000),
    ],
)
def test_what_is_no_url_of_the_web_is_not_looked_up(url):
    def resolve(host, port):
        raise AssertionError(host)

    assert isinstance(get(url, resolve=resolve), Unreadable)


def test_a_host_that_does_not_exist_is_a_reason():
    def resolve(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    assert get("http://nowhere.example/", resolve=resolve).reason == "the URL cannot be fetched: its host is not found"
