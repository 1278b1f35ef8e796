"""Labels against plain transformers, for each head; the embedding of the same pass; and what is refused."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from spark_embed.config import ModelOptions
from spark_embed.errors import ModelError
from spark_embed.inference.decode import MAX_PIXELS
from spark_embed.inference.preflight.parity import (
    MAX_SCORE_DIFFERENCE,
    find_shortfall,
    measure_parity,
    prepare_sample,
)
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import EMBEDDED_MODEL, Inputs, Recipe
from spark_embed.models.registry import IMAGE_CLASSIFIER, IMAGE_EMBEDDER, find_check, find_kind
from spark_embed.models.vision.image_classifier import ImageClassifier
from spark_embed.models.vision.image_embedder import ImageEmbedder

from support.small_models import (
    CLASSIFIERS,
    LABELS,
    TIMM_ARGUMENTS,
    TIMM_MODELS,
    change_weights,
    prepare_all,
    save_classifier,
    save_model,
)
from support.vectors import cosines


def recipe(source, *, device="cpu", dtype="float32", compile_rows=None, **options) -> Recipe:
    """Return the recipe of a classifier, on the CPU and in float32 unless told."""
    given = ModelOptions(model_directory=str(source), task="classify", dtype=dtype, **options)
    return replace(make_recipe(given), device=device, compile_rows=compile_rows)


def embedder(source) -> ImageEmbedder:
    return ImageEmbedder(Recipe(str(source), device="cpu", dtype="float32"))


def scores_of(network, prepared, preprocessing) -> np.ndarray:
    """Return what a plain network makes of prepared pixels: softmax, by float64."""
    pixels = preprocessing.normalize(torch.stack(prepared))
    with torch.inference_mode():
        outputs = network(pixels)
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    return torch.softmax(logits.double(), dim=1).numpy()


@pytest.fixture(scope="module", params=[*CLASSIFIERS, *TIMM_MODELS])
def head(request, tmp_path_factory):
    """A folder with a classifier, and its network as it was saved."""
    name = request.param
    if name in TIMM_ARGUMENTS and not hasattr(transformers.TimmWrapperConfig(), "model_args"):
        pytest.skip("this transformers builds no timm network from arguments: such a checkpoint is refused")
    folder = tmp_path_factory.mktemp(name)
    return folder, save_classifier(name, folder)


def test_labels_and_scores_are_those_of_plain_transformers(head, photos, photo_bytes):
    folder, network = head
    model = ImageClassifier(recipe(folder))
    prepared = prepare_all(model, photos[:4])
    prediction = model.predict(prepared)
    expected = scores_of(network, prepared, model.network.preprocessing)
    order = np.argsort(-expected, axis=1)[:, :5]
    columns = prediction.columns
    assert prediction.failures == {"label": {}}
    assert columns["label_id"] == order[:, 0].tolist()
    assert columns["label"] == [LABELS[number] for number in order[:, 0]]
    assert columns["top_labels"] == [[LABELS[number] for number in row] for row in order]
    np.testing.assert_allclose(columns["top_scores"], np.take_along_axis(expected, order, 1), atol=1e-4)
    np.testing.assert_allclose(columns["score"], expected.max(axis=1), atol=1e-4)
    assert expected.max() > 1.5 / len(LABELS)  # not all the same
    # The same by its own processor, from the encoded image on.
    parity = measure_parity(
        model, list(prepare_sample(model, ((data, None) for data in photo_bytes[:4]), MAX_PIXELS))
    )
    assert parity.n_same_label == parity.n_images == 4
    assert parity.max_score_difference < MAX_SCORE_DIFFERENCE
    assert parity.min_cosine is None


def test_the_embedding_of_the_same_pass_is_that_of_the_embedder(head, photos):
    folder, network = head
    if "Siglip" in type(network).__name__:
        with pytest.raises(ModelError, match="a head of SigLIP does not stand on the vector of --task embed"):
            ImageClassifier(recipe(folder, with_embedding=True))
        return
    model, plain = ImageClassifier(recipe(folder, with_embedding=True)), ImageClassifier(recipe(folder))
    passes: list[str] = []
    layer = next(one for one in model.network._network.modules() if isinstance(one, torch.nn.Conv2d))
    layer.register_forward_hook(lambda *_: passes.append("one"))
    prepared = prepare_all(model, photos[:4])
    both, labels = model.predict(prepared).columns, plain.predict(prepared).columns
    assert passes == ["one"]
    expected = embedder(folder).predict(prepared).columns["embedding"]
    assert both["embedding"].shape == expected.shape
    assert cosines(both["embedding"], expected).min() > 0.999999
    assert both["label"] == labels["label"]
    np.testing.assert_allclose(both["score"], labels["score"], atol=1e-6)


@pytest.fixture
def vit(tmp_path):
    """A folder with a ViT that classifies."""
    save_classifier("vit", tmp_path / "vit")
    return tmp_path / "vit"


def put(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_of_several_labels_each_has_a_probability_of_its_own(vit, photos):
    put(vit, problem_type="multi_label_classification")
    model = ImageClassifier(recipe(vit, top_k=3, min_score=0.5))
    prepared = prepare_all(model, photos)
    columns = model.predict(prepared).columns
    with torch.inference_mode():
        logits = model.network._network(model.network.preprocessing.normalize(torch.stack(prepared))).logits
    expected = torch.sigmoid(logits.double()).numpy()
    assert (expected.sum(axis=1) > 1.5).any()
    np.testing.assert_allclose(columns["score"], expected.max(axis=1), atol=1e-6)
    for row, scores in enumerate(columns["top_scores"]):
        kept = sorted((one for one in expected[row] if one >= 0.5), reverse=True)[:3]
        np.testing.assert_allclose(scores, kept, atol=1e-6)
        assert len(columns["top_labels"][row]) == len(scores)
    assert model.describe()["output"] == "sigmoid of the logits"


def test_the_smallest_score_leaves_lists_empty_and_rows_there(vit, photos):
    model = ImageClassifier(recipe(vit, top_k=100, min_score=1))
    columns = model.predict(prepare_all(model, photos)).columns
    assert columns["top_labels"] == columns["top_scores"] == [[]] * len(photos)
    assert len(columns["label"]) == len(columns["score"]) == len(photos)
    assert model.labelling.top_k == len(LABELS)


def test_a_row_without_finite_scores_fails_alone(vit, photos):
    model = ImageClassifier(recipe(vit, with_embedding=True))
    forward = model.network.forward

    def forward_with_nan(inputs):
        outputs = forward(inputs)
        outputs["logits"][1, 3] = torch.nan
        outputs["embedding"][2] = 0
        return outputs

    model.network.forward = forward_with_nan
    failures = model.predict(prepare_all(model, photos)).failures["label"]
    assert {row: error.code for row, error in failures.items()} == {1: "bad_vector", 2: "bad_vector"}


def test_parity_sees_a_head_that_gives_other_labels(vit, photo_bytes):
    model = ImageClassifier(recipe(vit))
    plain = replace(model.recipe, dtype="bfloat16")  # so that the reference is loaded anew
    other = ImageClassifier(plain)
    sample = list(prepare_sample(model, ((data, None) for data in photo_bytes), MAX_PIXELS))
    assert find_shortfall(vars(measure_parity(model, sample)), 0.999) is None
    references = model.reference.predict([item.reference for item in sample])
    with torch.no_grad():
        other.network._network.classifier.bias[0] += 100
    parity = measure_parity(other, sample, references)
    assert parity.n_same_label < parity.n_images == len(photo_bytes)
    assert "have another label by plain transformers" in find_shortfall(vars(parity), 0.999)
    same = replace(parity, n_same_label=parity.n_images)
    assert "a score differs" in find_shortfall(vars(same), 0.999)
    assert find_shortfall(vars(replace(same, max_score_difference=0.01)), 0.999) is None


def test_the_embedded_model_names_what_photos_show(photos):
    model = ImageClassifier(recipe(EMBEDDED_MODEL))
    columns = model.predict(prepare_all(model, photos)).columns
    espresso, missile = columns["label"][2:4]  # coffee and rocket
    assert (espresso, missile) == ("espresso", "missile")
    assert columns["label_id"][2:4] == [967, 657]
    assert len(model.labelling.labels) == 1000
    assert model.labelling.labels[0] == "tench, Tinca tinca"


@pytest.mark.slow
def test_the_embedded_model_is_right_on_photos_whose_classes_imagenet_has(material):
    names = {"grand_piano": "grand piano", "starfish": "starfish", "trilobite": "trilobite"}
    names |= {"Motorbikes": "moped, motor scooter", "laptop": "notebook, laptop", "ketch": "yawl, schooner"}
    model = ImageClassifier(recipe(EMBEDDED_MODEL))
    right: Counter[str] = Counter()
    for category, wanted in names.items():
        photos = [
            Image.open(path).convert("RGB") for path in sorted((material / "photos" / category).iterdir())
        ]
        for label in model.predict(prepare_all(model, photos)).columns["label"]:
            right[category] += label.split(",")[0] in wanted.split(", ")
    assert right.total() >= 0.97 * 20 * len(names), right


@pytest.mark.parametrize("name", ["vit", "test_resnet"])
def test_compiled_both_outputs_are_those_of_the_network_as_it_is(name, tmp_path, photos, monkeypatch):
    """By torch's tracing; the C++ of it: test_compiled.py."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    save_classifier(name, tmp_path)
    given = recipe(tmp_path, with_embedding=True)
    compiled, plain = ImageClassifier(replace(given, compile_rows=4)), ImageClassifier(given)
    batch = prepare_all(plain, photos)
    for rows in (slice(1), slice(1, 5)):
        found, expected = (one.predict(batch[rows]).columns for one in (compiled, plain))
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
        np.testing.assert_allclose(found["embedding"], expected["embedding"], atol=1e-5)
        assert found["label"] == expected["label"]


def test_an_embedder_of_a_classifiers_folder_ignores_its_head(vit, photos):
    model = embedder(vit)
    assert model.predict([model.prepare(Inputs(np.array(photos[0])))]).columns["embedding"].shape == (1, 32)


def rename_head(folder) -> None:
    def drop(weights):
        for name in [name for name in weights if name.startswith(("classifier.", "fc."))]:
            del weights[name]

    change_weights(folder, drop)


BROKEN = {
    "another number of labels": (
        lambda folder: put(folder, id2label={"0": "ant", "1": "bee"}),
        r"the head in the weights is for 7 labels, and config\.json names 2 \(id2label, or num_classes\)",
    ),
    "a hole in the labels": (
        lambda folder: put(folder, id2label={"0": "ant", "2": "bee"}),
        "no label 1, of 2",
    ),
    "labels that are no names": (lambda folder: put(folder, id2label={"0": None}), "names no label 0, of 1"),
    "labels without numbers": (
        lambda folder: put(folder, id2label={"ant": "ant"}),
        "id2label is neither a list",
    ),
    "no head in the weights": (
        rename_head,
        r"the weights lack classifier\.weight: the model has no classification head; --task embed",
    ),
    "an embedder": (
        lambda folder: put(folder, architectures=["ViTModel"]),
        "ViTModel has no classification head",
    ),
    "a regression": (lambda folder: put(folder, problem_type="regression"), "problem_type regression"),
}
TOLD_BY_CONFIG = [
    name for name in BROKEN if name not in ("another number of labels", "no head in the weights")
]


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_classify_is_refused_in_one_line(vit, name):
    change, text = BROKEN[name]
    change(vit)
    given = recipe(vit)
    with pytest.raises(ModelError, match=rf"^--model_directory {vit}: .*{text}") as caught:
        ImageClassifier(given)
    assert "\n" not in str(caught.value)
    if name in TOLD_BY_CONFIG:  # before Spark starts
        with pytest.raises(ModelError, match=text):
            find_check(given.kind)(given)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: put(folder, num_classes=0), "num_classes 0: the network has no classification head"),
        (lambda folder: put(folder, label_names=["a"]), "1 label_names for num_classes 7"),
        (
            lambda folder: put(folder, label_names=None, num_classes=3),
            "for 7 labels, and config.json names 3",
        ),
        (rename_head, r"the weights lack fc\.weight: the model has no classification head"),
    ],
)
def test_a_timm_folder_that_cannot_classify_is_refused_in_one_line(tmp_path, change, text):
    save_classifier("test_resnet", tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=text):
        ImageClassifier(recipe(tmp_path))


def test_timms_labels_may_stand_in_its_pretrained_cfg(tmp_path, photos):
    save_classifier("test_resnet", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = config.pop("label_names")
    config["pretrained_cfg"]["label_names"] = names[::-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ImageClassifier(recipe(tmp_path)).labelling.labels == LABELS[::-1]


def test_a_clip_without_a_head_is_told_before_spark_starts(clip_folder):
    given = recipe(clip_folder)
    with pytest.raises(ModelError, match="CLIPModel has no classification head; --task embed makes vectors"):
        find_check(given.kind)(given)


def test_auto_is_what_the_models_config_says(vit, clip_folder, tmp_path, monkeypatch):
    def kind(source, task="auto"):
        return find_kind(ModelOptions(model_directory=source and str(source), task=task))

    assert kind(vit) == IMAGE_CLASSIFIER
    assert kind(clip_folder) == kind(None) == IMAGE_EMBEDDER
    assert kind(vit, "embed") == IMAGE_EMBEDDER
    shutil.rmtree(vit)
    with pytest.raises(ModelError, match="there is no such folder"):
        kind(vit)
    with pytest.raises(ModelError, match=r"^--model_directory org/gone: config\.json cannot be read: .*"):
        kind("org/gone")


def test_a_folder_whose_labels_changed_is_another_model(vit):
    before = ImageClassifier(recipe(vit)).describe()
    put(vit, id2label={str(number): label.upper() for number, label in enumerate(LABELS)})
    after = ImageClassifier(recipe(vit)).describe()
    assert {name for name in after if after[name] != before[name]} == {"labels_sha256"}


def test_a_model_family_without_heads_is_refused(tmp_path):
    save_model("clip", tmp_path)
    put(tmp_path, model_type="clip_vision_model", architectures=None)
    with pytest.raises(ModelError, match="clip_vision_model has no classification head"):
        ImageClassifier(recipe(tmp_path))
