"""Archives are complete, and the same for the same files."""

import tarfile

from proxy.plugins.author.pack import pack
from tests.support.wat import body_wat, manifest, put


def test_an_archive(tmp_path):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("plug", "1.2.0"))
    (tmp_path / "out").mkdir()
    first = pack(path, tmp_path / "out")
    assert first.name == "plug-1.2.0.tar.gz"
    with tarfile.open(first) as archive:
        assert archive.getnames() == ["p.toml", "p.wasm"]
        module = archive.extractfile("p.wasm")
        assert module is not None
        assert module.read() == path.read_bytes()
    content = first.read_bytes()
    path.touch()
    assert pack(path, tmp_path / "out").read_bytes() == content
    path.with_suffix(".sig").write_bytes(b"s")
    with tarfile.open(pack(path, tmp_path / "out")) as archive:
        assert archive.getnames()[-1] == "p.sig"
