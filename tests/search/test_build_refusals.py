"""build_index: what cannot be indexed is told in a line, and what stands there stays."""

import numpy as np
import pytest

from spark_embed.errors import ConfigError, ResumeError, StorageError
from spark_embed.output.folder import Output
from spark_embed.search.build import BuildOptions, build_index

from support.output_files import RUN_ID, fingerprint, make_run
from support.vector_sets import clustered, publish_vectors


def _nothing_published(root):
    make_run(Output(str(root)))


def _no_vectors(root):
    publish_vectors(root, {"a": [np.ones(3, np.float32), None]})
    results = [["label", [["label", "string"]]]]
    make_run(Output(str(root)), made_by=fingerprint(results=results))


def _other_run(root):
    publish_vectors(root, {"a": clustered(5)})
    make_run(Output(str(root)), run_id=f"{RUN_ID}-2")


def _foreign(root):
    publish_vectors(root, {"a": clustered(5)})
    (root / "index").mkdir()
    (root / "index/thesis.doc").touch()


def _broken(root):
    publish_vectors(root, {"a": clustered(5)})
    (root / "embeddings.parquet/a.parquet").write_bytes(b"PAR1")


def _broken_manifest(root):
    publish_vectors(root, {"a": clustered(5)})
    build_index(str(root))
    (root / "index/index.json").write_text("{}")


@pytest.mark.parametrize(
    ("prepare", "error", "says"),
    [
        (lambda root: None, ConfigError, "no run of spark_embed has published anything there"),
        (_nothing_published, ConfigError, "no run of spark_embed has published anything there"),
        (_no_vectors, ConfigError, "its model gives no vectors"),
        (_other_run, ConfigError, "--overwrite is not finished"),
        (_foreign, ResumeError, r"not ours \(thesis\.doc\)"),
        (_broken, StorageError, "a.parquet: cannot be read"),
        (_broken_manifest, ResumeError, "is broken, or no index of ours"),
    ],
)
def test_what_cannot_be_indexed_is_told(tmp_path, prepare, error, says):
    prepare(tmp_path)
    with pytest.raises(error, match=says):
        build_index(str(tmp_path))


def test_another_build_at_work_is_told(tmp_path):
    from spark_embed.output.lock.lock import OutputLock

    publish_vectors(tmp_path, {"a": clustered(5)})
    root = str(tmp_path / "index")
    with OutputLock(f"{root}/lock.json", root), pytest.raises(ResumeError, match="another run"):
        build_index(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"factory": "IVF"}, "FAISS makes no such index"), ({"column": "e"}, "are embedding")],
)
def test_wrong_options_are_told(tmp_path, options, says):
    publish_vectors(tmp_path, {"a": clustered(5)})
    with pytest.raises(ConfigError, match=says):
        build_index(str(tmp_path), options=BuildOptions(**options))


@pytest.mark.parametrize("factory", ["PQ64x12", "PQ8x12", "IDMap,Flat", "NSG32", "IVF65536,SQ8"])
def test_a_kind_that_faiss_fails_at_is_told_in_one_line(tmp_path, factory):
    publish_vectors(tmp_path, {"a": clustered(300)})
    with pytest.raises(ConfigError, match=f"--factory {factory}: ") as caught:
        build_index(str(tmp_path), options=BuildOptions(factory=factory))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", [".", "embeddings.parquet", "embeddings.parquet/x", "_spark_embed/index"])
def test_what_the_run_writes_is_no_place_for_an_index(tmp_path, inside):
    root = tmp_path / "out"
    output = publish_vectors(root, {"a": clustered(20)})
    (tmp_path / "link").symlink_to(root)
    before = {path for path in root.rglob("*") if path.is_file()}
    for place in (root / inside, tmp_path / "link" / inside):
        with pytest.raises(ConfigError, match=r"INDEX_DIR .* must be a folder of its own"):
            build_index(output.root, str(place))
    (root / "mine").mkdir()
    (root / "mine/thesis.doc").touch()
    with pytest.raises(ResumeError, match=r"thesis\.doc"):
        build_index(output.root, str(root / "mine"))
    assert {path for path in root.rglob("*") if path.is_file()} == {*before, root / "mine/thesis.doc"}


@pytest.mark.parametrize("name", ["trained", "queries"])
def test_a_damaged_training_is_told(tmp_path, name):
    publish_vectors(tmp_path, {"a": clustered(100)})
    build_index(str(tmp_path))
    [path] = (tmp_path / "index").glob(f"{name}-*")
    path.write_bytes(path.read_bytes()[:20])
    publish_vectors(tmp_path, {"a": clustered(100), "b": clustered(100, 1)})
    with pytest.raises(StorageError, match=rf"{name}-.*delete .*/index and index again"):
        build_index(str(tmp_path))
