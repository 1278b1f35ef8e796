"""Which kind of model options choose, and what a finished run compares of the files that they name."""

import pytest
import yaml

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError
from spark_embed.models.registry import (
    EMBEDDED_MODEL,
    IMAGE_CLASSIFIER,
    IMAGE_EMBEDDER,
    IMAGE_TEXT_EMBEDDER,
    MODEL_FOLDER,
    REMOTE,
    TEXT_EMBEDDER,
    ZERO_SHOT_CLASSIFIER,
    find_compared,
    find_kind,
)

from support.model_folders import write_folder
from support.provider_server import CHAT


@pytest.fixture
def sources(tmp_path):
    """What --model_directory may be, by a short name: its value."""
    (tmp_path / "api.yaml").write_text(yaml.safe_dump({**CHAT, "base_url": "http://localhost/v1"}))
    folder = write_folder(tmp_path / "code")
    return {
        "api": str(tmp_path / "api.yaml"),
        "code": str(folder),
        "hub": "org/clip",
        "own": EMBEDDED_MODEL,
        None: None,
    }


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "api",
            {"task": "embed_text", "text_column": "c"},
            "--task embed_text: .* is a remote API",
        ),
        ("api", {"task": "classify"}, "--task classify: .* is a remote API"),
        ("api", {"labels": "a,b"}, "--labels: is for --task classify by a CLIP or SigLIP, and .* remote API"),
        ("api", {"text_column": "c"}, "--text_column: is for .* remote API"),
        ("api", {"revision": "main"}, "--revision: is for a hub id, .* remote API"),
        ("api", {"compile": True}, "--compile: .* remote API"),
        ("code", {"task": "embed_text"}, "--task embed_text: .* is a folder with code"),
        ("code", {"task": "label"}, "--task label: .* is a folder with code"),
        ("code", {"task": "classify", "top_k": 3}, "--top_k: is for --task classify, .* folder with code"),
        ("code", {"with_embedding": True}, "--with_embedding: .* folder with code"),
        ("code", {"labels": "a,b"}, "--labels: .* folder with code"),
        ("code", {"text_column": "c"}, "--text_column: .* folder with code"),
        (None, {"with_embedding": True}, "--with_embedding: is for --task classify, .* an image embedder"),
        (None, {"top_k": 3}, "--top_k: is for --task classify"),
        (None, {"min_score": 0.5}, "--min_score: is for --task classify"),
        (None, {"prompt": "{}"}, "--prompt: is for --task classify with --labels, .* an image embedder"),
        (None, {"task": "classify", "prompt": "{}"}, "--prompt: .* a classifier by its own head"),
        ("hub", {"text_column": "c", "top_k": 3}, "--top_k: .* an embedder of images and captions"),
        ("hub", {"text_column": "c", "task": "embed_text", "prompt": "{}"}, "--prompt: .* embedder of texts"),
    ],
)
def test_an_option_that_a_kind_would_ignore_is_refused(source, options, message, sources):
    with pytest.raises(ConfigError, match=message) as caught:
        find_kind(ModelOptions(model_directory=sources[source], **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "options", "kind"),
    [
        ("api", {"task": "auto"}, REMOTE),
        ("own", {"task": "auto"}, IMAGE_EMBEDDER),
        ("api", {"task": "label", "normalize": False}, REMOTE),
        ("code", {"task": "classify"}, MODEL_FOLDER),
        (None, {"task": "classify", "top_k": 3, "min_score": 0.1, "with_embedding": True}, IMAGE_CLASSIFIER),
        ("hub", {"task": "classify", "labels": "a,b", "prompt": "{}", "top_k": 3}, ZERO_SHOT_CLASSIFIER),
        ("hub", {"text_column": "c", "revision": "main"}, IMAGE_TEXT_EMBEDDER),
        ("hub", {"text_column": "c", "task": "embed_text"}, TEXT_EMBEDDER),
    ],
)
def test_those_that_it_knows_choose_it(source, options, kind, sources):
    assert find_kind(ModelOptions(model_directory=sources[source], **options)) == kind


def test_what_is_compared_of_an_api_is_what_decides_its_answers(sources, tmp_path):
    def compared(**values):
        described = {**CHAT, "base_url": "http://localhost/v1", **values}
        (tmp_path / "api.yaml").write_text(yaml.safe_dump(described))
        return find_compared(REMOTE, ModelOptions(model_directory=sources["api"]))

    first = compared()
    faster = {"concurrency": 3, "requests_per_s": 2, "timeout_s": 5, "attempts": 2, "prices": {"request": 1}}
    assert compared(**faster) == first
    assert compared(base_url="http://elsewhere/v1") != first
    for name, value in (("prompt", "why?"), ("model", "other"), ("columns", {"x": "y"}), ("max_edge", 64)):
        assert compared(**{name: value}) != first, name


def test_what_is_compared_of_code_and_labels_is_what_their_files_hold(sources, tmp_path):
    code, labels = ModelOptions(model_directory=sources["code"]), tmp_path / "labels.txt"
    first = find_compared(MODEL_FOLDER, code)
    assert find_compared(MODEL_FOLDER, code) == first
    (tmp_path / "code/model.py").write_text("# other code")
    assert find_compared(MODEL_FOLDER, code) != first
    labels.write_text("cat\ndog\n")
    options = ModelOptions(task="classify", labels=str(labels))
    assert list(find_compared(ZERO_SHOT_CLASSIFIER, options)["labels"]) == ["cat", "dog"]
