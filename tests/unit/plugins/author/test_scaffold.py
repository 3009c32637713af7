"""What `new` writes builds, loads and passes its own tests, where the tools are installed."""

import shutil

import pytest

from proxy.plugins.author.build import BuildFailed, build
from proxy.plugins.author.cases import read_cases, run_case
from proxy.plugins.author.harness import Harness
from proxy.plugins.author.scaffold import LANGUAGES, scaffold
from proxy.plugins.manifest import parse_manifest


@pytest.mark.parametrize("language", LANGUAGES)
def test_files(tmp_path, language):
    written = scaffold(tmp_path / "guard", "guard", language)
    manifest = tmp_path / "guard" / "guard.toml"
    assert manifest in written
    assert parse_manifest(manifest, manifest.read_bytes()).name == "guard"
    assert all("{name}" not in path.read_text() for path in written)
    with pytest.raises(FileExistsError):
        scaffold(tmp_path / "guard", "guard", language)


def test_a_bad_name(tmp_path):
    with pytest.raises(ValueError, match="name:"):
        scaffold(tmp_path / "x", "no spaces", "wat")


TOOLS = {
    "wat": (),
    "c": ("clang", "wasm-ld"),
    "rust": ("cargo",),
    "python": ("componentize-py",),
    "javascript": ("componentize-qjs",),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_it_passes_its_own_tests(tmp_path, language):
    for tool in TOOLS[language]:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    directory = tmp_path / "guard"
    scaffold(directory, "guard", language)
    try:
        module = build(directory)
    except BuildFailed as failed:
        if "wasm32" in str(failed):
            pytest.skip("the compiler has no wasm32")
        raise
    async with Harness(module) as harness:
        for case in read_cases(directory / "guard.cases.json"):
            assert (await run_case(harness, case)).problem == ""
