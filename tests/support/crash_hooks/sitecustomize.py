"""Every Python process of a run under test imports this, by PYTHONPATH; the program knows nothing of it.

Environment variables say what it does:

- CRASH_LOG: a folder. A worker writes each image that goes through the model into a file there, named by its
  process: "shard row" as the image's first pixel has them.
- CRASH_ROW_S: seconds by which the model is slower for each image.
- CRASH_WAVE_ROWS: the rows of each wave, however fast this machine is.
- CRASH_SILENT_S: after so many seconds without a heartbeat, instead of minutes, the lock counts as lost.
- CRASH_KIND: the kind of model that runs, module:class, instead of image embedders.
- CRASH_HOLD: "module function text number": the process stops in front of that call, the number-th one that
  has the text in its arguments, says so by a file in CRASH_LOG, and goes on when that file is gone.
"""

import importlib.machinery
import os
import sys
import time

_LOOK_EVERY_S = 0.02


class _Patcher:
    """Lets a module be imported as ever, and changes it before anybody sees it."""

    def __init__(self, patches):
        self._patches = patches

    def find_spec(self, name, path=None, target=None):
        if name not in self._patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _PatchingLoader(spec.loader, self._patches[name])
        return spec


class _PatchingLoader:
    """Loads as another loader does, which may be that of all modules in a zip, and changes the module."""

    def __init__(self, loader, patches):
        self._loader, self._patches = loader, patches

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        self._loader.exec_module(module)
        for patch in self._patches:
            patch(module)


def _append(name, text):
    descriptor = os.open(os.path.join(os.environ["CRASH_LOG"], name), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _count_images(feed):
    predict = feed._predict

    def counted(chunk, model):
        pixels = [item.prepared[:, 0, 0].tolist() for item in chunk.items if item.error is None]
        _append(
            f"{os.getpid()}.images", "".join(f"{shard} {256 * high + low}\n" for shard, high, low in pixels)
        )
        return predict(chunk, model)

    feed._predict = counted


def _slow_down(image_embedder):
    predict = image_embedder.ImageEmbedder.predict

    def slow(self, batch):
        time.sleep(float(os.environ["CRASH_ROW_S"]) * len(batch))
        return predict(self, batch)

    image_embedder.ImageEmbedder.predict = slow


def _fix_waves(waves):
    waves._Loop._wave_rows = lambda loop: int(os.environ["CRASH_WAVE_ROWS"])


def _choose_kind(recipes):
    assert recipes.find_kind, "it has moved"
    recipes.find_kind = lambda options: os.environ["CRASH_KIND"]


def _hurry(lock):
    lock.SILENT_S = float(os.environ["CRASH_SILENT_S"])
    lock.OutputLock.__init__.__defaults__ = (lock.SILENT_S / 5,)


def _hold(module):
    _, name, text, number = os.environ["CRASH_HOLD"].split()
    function = getattr(module, name)
    n_calls = 0

    def held(*args, **kwargs):
        nonlocal n_calls
        if text in repr((args, kwargs)):
            n_calls += 1
            if n_calls == int(number):
                note = os.path.join(os.environ["CRASH_LOG"], "held")
                _append("held", str(os.getpid()))
                while os.path.exists(note):
                    time.sleep(_LOOK_EVERY_S)
        return function(*args, **kwargs)

    setattr(module, name, held)


if "CRASH_LOG" in os.environ:
    patches = {
        "spark_embed.inference.feed": [_count_images],
        "spark_embed.models.vision.image_embedder": [_slow_down],
        "spark_embed.run.waves": [_fix_waves],
    }
    if "CRASH_KIND" in os.environ:
        del patches["spark_embed.inference.feed"]  # it knows what an image embedder prepares
        patches["spark_embed.inference.recipes"] = [_choose_kind]
    if "CRASH_SILENT_S" in os.environ:
        patches["spark_embed.output.lock.lock"] = [_hurry]
    if "CRASH_HOLD" in os.environ:
        patches.setdefault(os.environ["CRASH_HOLD"].split()[0], []).append(_hold)
    sys.meta_path.insert(0, _Patcher(patches))
