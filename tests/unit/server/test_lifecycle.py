import subprocess
import sys
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.server.lifecycle import announce, check_usable
from proxy.settings.model import Admin, Auth, Listen, ListenTls, Node, NodeTls, Settings
from tests.support.certificates import Certificates

LIMIT_PROGRAM = """
import resource
from proxy.server.lifecycle import raise_descriptor_limit
from proxy.settings.model import Pool, Settings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
raise_descriptor_limit(Settings(pool=Pool(max_client_connections=%d)))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("clients", "warns"), [(400, False), (2000, True)])
def test_all_descriptors_are_taken(clients: int, warns: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMIT_PROGRAM % clients],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "(1000, 1000)" in done.stdout
    assert ("fewer descriptors than clients" in done.stdout + done.stderr) == warns


def test_the_line_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    announce(Settings(listen=Listen(host=("::1", "127.0.0.1"), port=7000), admin=Admin(port=0)))
    announce(Settings())
    assert capsys.readouterr().out.splitlines() == [
        "headgate is ready: PostgreSQL on ::1, 127.0.0.1 port 7000",
        "headgate is ready: PostgreSQL on 127.0.0.1 port 6432, admin on http://127.0.0.1:9632",
    ]


def test_usable_settings(certificates: Certificates) -> None:
    cert, key = certificates.server
    check_usable(Settings(listen=Listen(tls=ListenTls(cert=cert, key=key))))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("rubbish")
    for settings in (
        Settings(listen=Listen(tls=ListenTls(cert=bad, key=bad))),
        Settings(node=(Node(name="a", tls=NodeTls(mode="verify-ca", ca=bad)),)),
        Settings(auth=Auth(users_file=tmp_path / "missing")),
        Settings(auth=Auth(hba_file=bad)),
    ):
        with pytest.raises(SettingsError):
            check_usable(settings)
