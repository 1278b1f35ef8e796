"""`make env-archive` packs an environment as it is, but for the package, which comes from the wheel."""

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from make_env_archive import write_archive

WHEEL = "spark_embed-1.0-py3-none-any.whl"
PACKAGES = "lib/python3.11/site-packages"


def install(environment: Path, name: str, *, editable: bool) -> None:
    """Leave what pip leaves of a package."""
    info = environment / PACKAGES / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "direct_url.json").write_text(
        json.dumps({"url": "file:///x", "dir_info": {"editable": editable}})
    )
    if editable:
        (environment / PACKAGES / f"_editable_impl_{name}.pth").write_text("/x\n")
    else:
        (environment / PACKAGES / f"{name}.py").write_text("")


@pytest.fixture
def environment(tmp_path) -> Path:
    folder = tmp_path / "venv"
    install(folder, "spark_embed", editable=True)
    install(folder, "other", editable=False)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to("/usr/bin/python3.11")
    (folder / "lib64").symlink_to("lib")
    return folder


@pytest.fixture
def wheel(tmp_path) -> Path:
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as files:
        files.writestr("spark_embed/__init__.py", "")
        files.writestr("spark_embed-1.0.dist-info/METADATA", "Name: spark-embed\n")
    return tmp_path / WHEEL


def test_the_checkout_is_replaced_by_the_wheel(environment, wheel, tmp_path):
    (tmp_path / "link").symlink_to(environment)
    write_archive(tmp_path / "link", wheel, tmp_path / "dist/environment.tar.gz")
    with tarfile.open(tmp_path / "dist/environment.tar.gz") as tar:
        members = {member.name: member for member in tar}
    assert set(members) == {
        "pyvenv.cfg", "bin/python", "lib64",
        f"{PACKAGES}/other.py", f"{PACKAGES}/other-1.0.dist-info/direct_url.json",
        f"{PACKAGES}/spark_embed/__init__.py", f"{PACKAGES}/spark_embed-1.0.dist-info/METADATA",
    }  # fmt: skip
    assert members["bin/python"].linkname == "/usr/bin/python3.11"
    assert members["lib64"].issym()
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["environment.tar.gz"]


def test_another_package_whose_code_is_elsewhere_is_refused(environment, wheel, tmp_path):
    install(environment, "mine", editable=True)
    with pytest.raises(SystemExit, match="mine is installed as editable"):
        write_archive(environment, wheel, tmp_path / "environment.tar.gz")


def test_what_is_no_environment_is_refused(wheel, tmp_path):
    with pytest.raises(SystemExit, match="no environment"):
        write_archive(tmp_path, wheel, tmp_path / "environment.tar.gz")
