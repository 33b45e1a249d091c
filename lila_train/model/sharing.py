"""A model as a Hugging Face repository, or a folder with the same files: its card, writing and fetching."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lila_cues.networks.weights import file_sha256
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.model.released import MODEL_FILE, WEIGHTS_FILE
from stores.atomic import atomic_write
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_train.model.lila import Fit, Lila

CONFIG_FILE, ENCODER_FILE = "config.json", "encoder.safetensors"
FOLDERS_OF_FILES = ("videos", "frames", "demo")  # data sets of `lila-cues build` that have no name of their own
BIBTEX = """@inproceedings{araslanov2026lila,
  title     = {Featurising Pixels from Dynamic 3D Scenes with Linear In-Context Learners},
  author    = {Araslanov, Nikita and Sundermeyer, Martin and Matsuki, Hidenobu and Tan, David Joseph and
               Tombari, Federico},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2026},
}"""


def model_card(model: Lila, repo_id: str) -> ModelCard:
    """Return the repository's README.md: what the model is, how to use it, its encoder, scores and licenses."""
    source, name = model.encoder.source, repo_id.rpartition("/")[2]
    training = model.provenance
    dataset = training.store.get("dataset") if training else None
    dataset = None if dataset in FOLDERS_OF_FILES else dataset
    scores = training.scores if training else []
    data = ModelCardData(
        license="apache-2.0",
        library_name="lila-pixels",
        pipeline_tag="image-feature-extraction",
        tags=["lila", "pixel-features", "dense-features", "self-supervised", "video"],
        base_model=source.location if source.origin == "hub" else None,
        datasets=dataset,
        model_name=name if scores else None,
        eval_results=[result for row in scores for result in _eval_results(row)] or None,
    )
    parameters = sum(t.numel() for t in model.decoder.parameters())
    location = ENCODER_FILE if source.origin == "file" else f"{source.location} ({source.origin})"
    history = ""
    if training and training.step:
        history = (
            f"Trained on unlabeled video:\n{training.step:,} steps, {training.store.get('clips', '?')} clips"
            f"{f' of {dataset}' if dataset else ''}; `{CONFIG_FILE}` has the settings and versions."
        )
    elif training and training.settings:
        history = "Its decoder is not trained."
    return ModelCard(f"""---
{data.to_yaml()}
---

# LILA pixel features

A feature vector of {model.decoder.widths.out} numbers for every pixel of an image of any size: a DPT decoder
({parameters:,} parameters, in `{MODEL_FILE}`) on the frozen encoder `{model.encoder.name}`, after LILA
([arXiv 2604.26488](https://arxiv.org/abs/2604.26488)). {history}

```python
from lila_train import Lila

model = Lila.from_pretrained("{repo_id}")
features = model.features(image)  # a PIL image, an array H×W×3 or a tensor 3×H×W → d×H×W
```

| encoder | {model.encoder.name}, patch {model.encoder.patch_size}, {model.encoder.width} channels |
|---|---|
| its weights | {location} |
| SHA-256 | {source.sha256 or "none"} |
| their license | {source.licence} |

The decoder is under the Apache License 2.0; the encoder keeps its own license.

```bibtex
{BIBTEX}
```
""")


def _eval_results(row: dict[str, Any]) -> list[EvalResult]:
    """Return the figures of one line of scores.jsonl as Hugging Face's model-index has them."""
    counts = ", ".join(f"{count} {name}" for name, count in row["counts"].items())
    return [
        EvalResult(
            task_type="video-object-segmentation",
            dataset_type=row["protocol"],
            dataset_name=f"{row['protocol']} ({counts})",
            metric_type=name,
            metric_value=value,
        )
        for name, value in row["figures"].items()
        if value is not None
    ]


def save(model: Lila, folder: Path) -> None:
    """Write the decoder and config.json to a folder, and the encoder where only a local file holds it."""
    source = model.encoder.source
    if source.origin == "file":
        path = folder / ENCODER_FILE
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.encoder.vit.state_dict().items()}
        atomic_write(safetensors.torch.save(tensors), path)
        source = replace(source, location=ENCODER_FILE, sha256=file_sha256(path))
    known = model.provenance or Provenance(source, model.decoder.widths, 0, {}, {}, checkpoint.versions())
    known = replace(known, encoder=source)
    checkpoint.write(folder / MODEL_FILE, model.decoder, known)
    training = {name: value for name, value in asdict(known).items() if name not in ("encoder", "widths")}
    config = {"model_type": "lila", **model.config, "encoder_weights": source.to_dict(), "training": training}
    atomic_write(json.dumps(config, indent=2) + "\n", folder / CONFIG_FILE)


class SharedFiles(NamedTuple):
    """The files of a shared model that were found, and the `fit` it was saved with."""

    weights: Path
    encoder: Path | None
    fit: Fit


def is_shared(place: str | Path) -> bool:
    """Return whether a place is a folder that `save` wrote."""
    return Path(f"{place}/{CONFIG_FILE}").is_file()


def fetch(place: str | Path, **hub_options: Any) -> SharedFiles:
    """Return the files of a folder, or of a hub repository through the hub's cache; LilaError where there are none."""
    names, folder = [MODEL_FILE, WEIGHTS_FILE, ENCODER_FILE, CONFIG_FILE], Path(place)
    if not (str(place) and folder.is_dir()):
        try:
            folder = Path(snapshot_download(str(place), allow_patterns=names, **hub_options))
        except LocalEntryNotFoundError as error:
            found = "neither such a folder nor one in the cache, and the hub cannot be reached; pass a local folder"
            raise _not_found(place, found) from error
        except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
            raise _not_found(place, f"neither ({str(error).splitlines()[0]}); check the name") from error
    files = {name: path for name in names if (path := folder / name).is_file()}
    weights = files.get(MODEL_FILE, files.get(WEIGHTS_FILE))  # the latter of version 0.1
    if weights is None:
        raise _not_found(place, "a place without that file; was it written by save_pretrained?")
    return SharedFiles(weights, files.get(ENCODER_FILE), _saved_fit(files.get(CONFIG_FILE)))


def _saved_fit(path: Path | None) -> Fit:
    """Return the `fit` in a config.json, "pad" where it has none."""
    try:
        config = json.loads(path.read_text()) if path else {}
        fit: Fit = config.get("fit", "pad")
    except (ValueError, AttributeError) as error:
        raise LilaError(f"expected a JSON object in {path}, found something else ({error}); copy it again") from error
    return fit


def _not_found(place: str | Path, found: str) -> LilaError:
    return LilaError(
        f"expected a folder or a public repository of the hub with {MODEL_FILE} at {place}, as save_pretrained writes "
        f"it, found {found}"
    )
