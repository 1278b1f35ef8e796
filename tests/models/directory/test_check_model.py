"""spark-embed check-model: what it says of a folder, and its exit code."""

import json

import pytest

from spark_embed.cli.main import main

from support.commands import BIN, run_command
from support.model_folders import MEAN_COLOUR, class_with, write_folder


@pytest.fixture
def check(tmp_path, capsys):
    """Try a folder; returns the exit code, what is said, and the error's line."""

    def check(code=MEAN_COLOUR, **config):
        folder = write_folder(tmp_path / "model", code, **config)
        exit_code = main(["check-model", str(folder)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return exit_code, said.out.splitlines(), (said.err.strip().splitlines() or [""])[-1]

    return check


def test_a_folder_that_can_be_used(check):
    code, lines, _ = check(MEAN_COLOUR + "\nprint('printed')")
    assert code == 0
    assert len(lines) == 2
    assert lines[0].startswith("mean colour 1.0 (embedding): loaded and warmed up in ")
    assert lines[1].endswith(" s an image: vectors of 3 values")


def test_a_classifier_that_can_be_used(check):
    encode = 'return [[{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}] for _ in batch]'
    code, lines, _ = check(class_with(encode=encode), metadata={"type": "classifier"})
    assert code == 0
    assert lines[1].endswith(" s an image: the photo's label is 'cat', of 2 returned")


GREY, PHOTO = "a grey image of 8 x 8", "an image like a photo, of 640 x 480"
NAN = "bad_vector: the model returned NaN or infinity"
FAILS_TOGETHER = """
if len(batch) > 1:
    raise KeyError("x")
return [[1.0] for _ in batch]
"""
FAILS_AT_PHOTOS = 'return [[1.0, float("nan") if row["image"].size[0] == 640 else 1.0] for row in batch]'
OUT_OF_ORDER = 'return [[1, row["image"].size[0]] for row in batch][::-1]'


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (FAILS_TOGETHER, []),  # one by one, they are right
        (FAILS_AT_PHOTOS, [f"WRONG {PHOTO}, alone: {NAN}", f"WRONG {PHOTO}, in a batch of 2: {NAN}"]),
        (
            OUT_OF_ORDER,
            [f"WRONG {name}: its result in a batch of 2 is another than alone" for name in (GREY, PHOTO)],
        ),
    ],
)
def test_results_that_are_wrong_are_told_line_by_line(check, encode, said):
    code, lines, last = check(class_with(encode=encode, warmup="pass"))
    assert lines[2:] == said
    assert code == (3 if said else 0)
    if said:
        assert last.endswith(f"model: {len(said)} wrong, see above")


def test_what_is_missing_is_told_at_once(check, tmp_path):
    code, lines, last = check("class Model: pass", version=None, batch_size="many")
    assert (code, lines) == (3, [])
    assert "config.json: version is missing; batch_size must be a valid integer" in last
    assert "model.py has no class ModelImpl" in last
    code, _, last = check(class_with(load="1 / 0"))
    assert code == 3
    assert "load() fails: model.py:25: ZeroDivisionError" in last
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "clip"}))
    assert main(["check-model", str(tmp_path / "model")]) == 3
    assert main(["check-model", str(tmp_path / "none")]) == 3
    assert main(["check-model"]) == 2


@pytest.mark.slow
def test_it_needs_no_spark(tmp_path):
    folder = write_folder(
        tmp_path / "model", MEAN_COLOUR + "\nimport sys\nassert 'pyspark' not in sys.modules"
    )
    done = run_command(BIN / "spark-embed", "check-model", folder, environ={"JAVA_HOME": "/nowhere"})
    assert done.returncode == 0, done.stderr
    assert "runs the folder's own code" in done.stderr
