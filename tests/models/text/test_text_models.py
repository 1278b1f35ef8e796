"""Text vectors, scores and labels that are given as words are those of plain transformers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers

from spark_embed.errors import ImageError, ModelError
from spark_embed.inference.preflight.parity import Sampled, measure_parity
from spark_embed.models import Inputs, Recipe, resolved
from spark_embed.models.text.image_text_embedder import ImageTextEmbedder
from spark_embed.models.text.text_embedder import TextEmbedder
from spark_embed.models.text.tokenizer import Tokenizer
from spark_embed.models.text.tower import TextTower
from spark_embed.models.text.zero_shot import ZeroShotClassifier

from support.small_models import image_features, recipe
from support.text_models import N_TOKENS, TEXT_MODELS, save_text_model
from support.vectors import cosines

LONG = "a dog that barks all night"
TEXTS = ["a cat", "A small DOG.", "8 birds, and more", LONG, "q"]
LABELS = ("cat", "dog", "bird, small", "7")
PROMPT = "a {}."


@pytest.fixture(scope="module", params=TEXT_MODELS)
def saved(request, tmp_path_factory):
    """The folder of a model, and the same by plain transformers."""
    folder = tmp_path_factory.mktemp("models") / request.param
    return folder, save_text_model(request.param, folder)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """That of a CLIP."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    save_text_model("clip", folder)
    return folder


def text_recipe(folder, **options) -> Recipe:
    return recipe(folder, options=(("text_column", "caption"),), **options)


def label_recipe(folder, **options) -> Recipe:
    values = {"labels": LABELS, "prompt": PROMPT, "with_embedding": True, "top_k": 3, "min_score": 0.0}
    return recipe(folder, options=tuple({**values, **options}.items()))


def rows(model, pairs) -> list:
    """Return what a model of images and captions prepares of (image or error, caption)."""
    inputs = [
        Inputs(None, image, {"caption": caption})
        if isinstance(image, ImageError)
        else Inputs(np.array(image), None, {"caption": caption})
        for image, caption in pairs
    ]
    return [model.prepare(one) for one in inputs]


def test_vectors_of_texts(saved):
    folder, plain = saved
    expected = plain.text_vectors(TEXTS).numpy()
    assert cosines(expected[1:], expected[:-1]).max() < 0.99  # the texts can be told apart
    model = TextEmbedder(text_recipe(folder, normalize=False))
    prediction = model.predict([model.prepare(Inputs(columns={"caption": text})) for text in TEXTS])
    assert prediction.failures == {"text": {}}
    assert prediction.columns["text_truncated"] == [False, False, False, True, False]
    np.testing.assert_allclose(prediction.columns["text_embedding"], expected, atol=1e-4)
    assert cosines(prediction.columns["text_embedding"], expected).min() > 0.999999
    assert model.describe()["text"]["max_tokens"] == N_TOKENS
    prefixes = [LONG[:n] for n in range(10, len(LONG))]  # some of them just fit
    n_tokens = [len(ids) for ids in transformers.AutoTokenizer.from_pretrained(folder)(prefixes)["input_ids"]]
    assert N_TOKENS in n_tokens
    assert model.predict(prefixes).columns["text_truncated"] == [n > N_TOKENS for n in n_tokens]


@pytest.mark.parametrize("normalize", [True, False])
def test_image_and_caption(saved, photos, normalize):
    folder, plain = saved
    model = ImageTextEmbedder(text_recipe(folder, normalize=normalize))
    broken = ImageError("corrupt")
    pairs = [(photos[0], TEXTS[0]), (broken, TEXTS[1]), (photos[1], None), (photos[2], " \n"), (broken, "")]
    batch = rows(model, [*pairs, (photos[1], TEXTS[1])])
    prediction = model.predict(batch)
    codes = {
        name: {row: error.code for row, error in errors.items()}
        for name, errors in prediction.failures.items()
    }
    assert codes == {
        "embedding": {1: "corrupt", 4: "corrupt"},
        "text": {2: "no_text", 3: "no_text", 4: "no_text"},
        "clip_score": {1: "corrupt", 2: "no_text", 3: "no_text", 4: "corrupt"},
    }
    images = torch.stack([plain_image(plain, photo) for photo in (photos[0], photos[1])]).numpy()
    texts = plain.text_vectors([TEXTS[0], TEXTS[1]]).numpy()
    found = prediction.columns
    assert cosines(found["embedding"][[0, 5]], images).min() > 0.9999
    assert cosines(found["text_embedding"][[0, 1]], texts).min() > 0.999999
    np.testing.assert_allclose(np.array(found["clip_score"])[[0, 5]], cosines(images, texts), atol=2e-3)
    lengths = np.linalg.norm(found["text_embedding"][[0, 1, 5]], axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize
    nothing = model.predict(rows(model, [(broken, None)]))
    assert set(nothing.failures) == {"embedding", "text", "clip_score"}
    assert all(len(values) == 1 for values in nothing.columns.values())


def plain_image(plain, photo) -> torch.Tensor:
    with torch.inference_mode():
        return image_features(plain.network, plain.image.process(photo))[0]


def test_parity_of_texts_sees_another_tokenization(saved, monkeypatch):
    model = TextEmbedder(text_recipe(saved[0]))
    rows_given = [Inputs(columns={"caption": text}) for text in TEXTS]

    def measured() -> float:
        rows = [(model.prepare(one), model.reference.prepare(one)) for one in rows_given]
        return measure_parity(model, [Sampled(*one, None, 0.0) for one in rows]).min_cosine

    assert measured() > 0.999999
    monkeypatch.setattr(model.tower._tokenizer, "max_tokens", 3)  # of both
    assert measured() > 0.999999
    whole = Tokenizer.__call__
    monkeypatch.setattr(
        Tokenizer, "__call__", lambda self, texts: whole(self, [text[::-1] for text in texts])
    )
    assert measured() < 0.999


def test_labels_given_as_words(saved, photos):
    """From the pixels of plain transformers' own processor, so that only the scores are compared."""
    folder, plain = saved
    model = ZeroShotClassifier(label_recipe(folder))
    inputs = [model.network.process(photo) for photo in photos]
    with torch.inference_mode():
        rows = [{name: values[0] for name, values in one.items()} for one in inputs]
        found = model._make(model.network.forward_by_shape(rows))
    logits = torch.stack([plain.logits(photo, [PROMPT.replace("{}", x) for x in LABELS]) for photo in photos])
    scores = (logits.softmax(dim=1) if folder.name == "clip" else logits.sigmoid()).numpy()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    assert found.failures == {"label": {}}
    assert found.columns["label_id"] == order[:, 0].tolist()
    assert found.columns["label"] == [LABELS[row[0]] for row in order]
    assert found.columns["top_labels"] == [[LABELS[one] for one in row] for row in order]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(found.columns["top_scores"], expected, atol=1e-4)
    assert np.ptp(scores) > 0.05
    reference = model.reference.predict(inputs)
    assert reference["label_id"].tolist() == found.columns["label_id"]
    np.testing.assert_allclose(reference["score"], found.columns["score"], atol=1e-4)


def test_the_labels_travel_and_no_worker_loads_a_text_tower(clip_folder, photos, monkeypatch):
    model = ZeroShotClassifier(label_recipe(clip_folder))
    monkeypatch.setattr(TextTower, "__init__", None)
    told = Recipe.from_dict(json.loads(json.dumps(dataclasses.asdict(resolved(model)))))
    assert told == resolved(model)
    worker = ZeroShotClassifier(told)
    assert worker.describe() == model.describe()
    batch = [model.prepare(Inputs(np.array(photo))) for photo in photos]
    found, expected = (one.predict(batch).columns for one in (worker, model))
    assert found["top_scores"] == expected["top_scores"]


def test_labels_and_prompt_decide_what_a_result_is(clip_folder):
    changes = [{}, {"labels": ("cat", "cow")}, {"prompt": "{}"}]
    said = [ZeroShotClassifier(label_recipe(clip_folder, **options)).describe() for options in changes]
    assert said[0] != said[1] != said[2] != said[0]


def test_another_tokenizer_is_another_model(tmp_path):
    save_text_model("clip", tmp_path)
    before = TextEmbedder(text_recipe(tmp_path)).describe()
    path = tmp_path / "vocab.json"
    path.write_text(path.read_text().replace('"a"', '"A"'))
    assert TextEmbedder(text_recipe(tmp_path)).describe() != before


def test_a_tokenizers_own_code_runs_only_where_it_may(tmp_path):
    save_text_model("clip", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "tokenizer_class": "Own"}
    path.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'has_run')!r}, 'w')")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        TextEmbedder(text_recipe(tmp_path))
    assert not (tmp_path / "has_run").exists()


def test_what_cannot_be_used_is_told(tmp_path):
    save_text_model("clip", tmp_path)
    for options, text in (({"labels": ("cat",)}, "single one"), ({"prompt": "{} " * 20}, "is longer than")):
        with pytest.raises(ModelError, match=f"--labels.*{text}"):
            ZeroShotClassifier(label_recipe(tmp_path, **options))
    with pytest.raises(ModelError, match="--text_column caption: holds int"):
        TextEmbedder(text_recipe(tmp_path)).prepare(Inputs(columns={"caption": 7}))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="its tokenizer is missing"):
        TextEmbedder(text_recipe(tmp_path))


def test_clips_own_tokenizer_on_texts_as_people_write_them(material):
    folder = material / "clip-tiny"
    texts = [
        "Ein Café in Zürich 🦊",
        "写真 of a cat",
        "  two  blanks ",
        "<b>html</b> &amp; more",
        "no " * 200,
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.CLIPTextModelWithProjection.from_pretrained(folder)
    with torch.inference_mode():
        expected = [
            network(**tokenizer([text], truncation=True, return_tensors="pt")).text_embeds[0]
            for text in texts
        ]
    found = TextEmbedder(text_recipe(folder)).predict(texts).columns
    assert cosines(found["text_embedding"], torch.stack(expected).numpy()).min() > 0.999999
    assert found["text_truncated"] == [False, False, False, False, True]
