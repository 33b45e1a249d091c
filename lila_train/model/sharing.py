"""A model as a Hugging Face repository, or a folder with the same files: its card, writing and fetching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lila_cues.networks.weights import file_sha256
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.model.released import WEIGHTS_FILE
from stores.atomic import atomic_write
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_train.model.lila import Lila

ENCODER_FILE = "encoder.safetensors"


def model_card(model: Lila, repo_id: str) -> ModelCard:
    """Return the repository's README.md: what the model is, how to use it, its encoder and the licenses."""
    data = ModelCardData(
        license="apache-2.0",
        library_name="lila-pixels",
        pipeline_tag="image-feature-extraction",
        tags=["lila", "pixel-features", "dense-features", "self-supervised", "video"],
    )
    source = model.encoder.source
    parameters = sum(t.numel() for t in model.decoder.parameters())
    location = ENCODER_FILE if source.origin == "file" else f"{source.location} ({source.origin})"
    return ModelCard(f"""---
{data.to_yaml()}
---

# LILA pixel features

A feature vector of {model.decoder.widths.out} numbers for every pixel of an image of any size: a DPT decoder
({parameters:,} parameters, in `{WEIGHTS_FILE}`) on the frozen encoder `{model.encoder.name}`, trained on unlabelled
video by LILA ([arXiv 2604.26488](https://arxiv.org/abs/2604.26488)).

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
""")


def save(model: Lila, folder: Path) -> None:
    """Write the decoder to a folder, and the encoder where it is a local file, which nobody else could find."""
    source = model.encoder.source
    if source.origin == "file":
        path = folder / ENCODER_FILE
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.encoder.vit.state_dict().items()}
        atomic_write(safetensors.torch.save(tensors), path)
        source = replace(source, location=ENCODER_FILE, sha256=file_sha256(path))
    known = model.provenance or Provenance(source, model.decoder.widths, 0, {}, {}, checkpoint.versions())
    checkpoint.write(folder / WEIGHTS_FILE, model.decoder, replace(known, encoder=source))


def fetch(model_id: str, name: str, **hub_options: Any) -> Path | None:
    """Return a file of a folder or of a hub repository; None if there is none of that name."""
    if Path(model_id).is_dir():
        path = Path(model_id) / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(model_id, name, **hub_options))
    except LocalEntryNotFoundError as error:
        if name == ENCODER_FILE:
            return None
        raise LilaError(
            f"{name} of {model_id} is not in the cache and the hub cannot be reached; pass a local folder"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise not_found(model_id, f"neither ({str(error).splitlines()[0]})") from error


def not_found(place: str | Path, found: str) -> LilaError:
    """Return the error of a place without a model, and what was found there."""
    return LilaError(
        f"expected a folder or a public repository of the hub with {WEIGHTS_FILE} at {place}, as save_pretrained "
        f"writes it, found {found}; check the name"
    )
