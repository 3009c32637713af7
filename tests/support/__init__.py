"""What the tests stand on: servers, proxies, ports, fakes and strategies."""
