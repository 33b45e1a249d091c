"""Models to and from Hugging Face repositories: safetensors and a model card; a folder serves as well.

`model.push_to_hub("me/my-lila")`, `Lila.from_pretrained("me/my-lila")`, `model.save_pretrained("folder")`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from lila_cues.networks import WeightSource
from lila_cues.networks.weights import file_sha256
from lila_train import checkpoint
from lila_train.decoder import Decoder
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.networks import FrozenEncoder
    from lila_train.inference.model import Fit, Lila

WEIGHTS_FILE = "weights.safetensors"
ENCODER_FILE = "encoder.safetensors"  # only where the encoder is a file of the user's, that nobody else could find


class HubMixin(ModelHubMixin):
    """What makes a model one of a hub: how it is written to a folder, read from one, and described."""

    if TYPE_CHECKING:
        encoder: FrozenEncoder
        decoder: Decoder
        provenance: checkpoint.Provenance | None

    def _save_pretrained(self, save_directory: Path) -> None:
        source = self.encoder.source
        if source.origin == "file":
            source = _with_weights(self.encoder, save_directory / ENCODER_FILE)
        known = self.provenance or checkpoint.Provenance(source, self.decoder.widths, 0, {}, {}, checkpoint.versions())
        checkpoint.write(save_directory / WEIGHTS_FILE, self.decoder, replace(known, encoder=source))

    @classmethod
    def _from_pretrained(  # type: ignore[override]  # our own options in place of **model_kwargs
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        encoder_weights: str | Path | None = None,
        fit: Fit = "pad",
    ) -> Lila:
        from lila_train.inference.loading import load

        def obtain(name: str) -> Path | None:
            if Path(model_id).is_dir():
                return found if (found := Path(model_id) / name).is_file() else None
            options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
            return _downloaded(model_id, name, options, force_download, local_files_only)

        weights = obtain(WEIGHTS_FILE)
        if weights is None:
            raise LilaError(f"expected {WEIGHTS_FILE} in {model_id}, found none; was it written by save_pretrained?")
        own = encoder_weights or obtain(ENCODER_FILE)
        return load(weights, device=device, dtype=dtype, encoder_weights=own, fit=fit)

    def generate_model_card(self, repo_id: str = "YOUR/MODEL") -> ModelCard:
        """README.md of the repository: what it is, how it is used, which encoder it needs and under which licence."""
        data = ModelCardData(
            license="apache-2.0",
            library_name="lila-pixels",
            pipeline_tag="image-feature-extraction",
            tags=["lila", "pixel-features", "dense-features", "self-supervised", "video"],
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_card(self.encoder, self.decoder, repo_id)}")


def _with_weights(encoder: FrozenEncoder, path: Path) -> WeightSource:
    """Write the encoder's own weights beside the decoder's; the source that names them."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.vit.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path)
    return replace(encoder.source, location=ENCODER_FILE, sha256=file_sha256(path))


def _downloaded(repo_id: str, name: str, options: dict[str, Any], force: bool, local_only: bool) -> Path | None:
    """A file of a repository, from the hub or its cache; None if the repository has none of that name."""
    try:
        return Path(hf_hub_download(repo_id, name, force_download=force, local_files_only=local_only, **options))
    except LocalEntryNotFoundError as error:
        if name == ENCODER_FILE:
            return None
        raise LilaError(
            f"{name} of {repo_id} is not at hand and the hub cannot be reached; pass a local folder"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LilaError(f"{repo_id} cannot be had from the hub ({reason}); is the name right, and public?") from error


def _card(encoder: FrozenEncoder, decoder: Decoder, repo_id: str) -> str:
    source = encoder.source
    parameters = sum(t.numel() for t in decoder.parameters())
    place = ENCODER_FILE if source.origin == "file" else f"{source.location} ({source.origin})"
    return f"""# LILA pixel features

A feature vector of {decoder.widths.out} numbers for every pixel of an image of any size: a DPT decoder
({parameters:,} parameters, in `{WEIGHTS_FILE}`) on the frozen encoder `{encoder.name}`, trained on unlabelled video by
LILA ([arXiv 2604.26488](https://arxiv.org/abs/2604.26488)).

```python
from lila_train import Lila

model = Lila.from_pretrained("{repo_id}")
features = model.features(image)  # a PIL image, an array H×W×3 or a tensor 3×H×W → d×H×W
```

| encoder | {encoder.name}, patch {encoder.patch_size}, {encoder.width} channels |
|---|---|
| its weights | {place} |
| SHA-256 | {source.sha256 or "none"} |
| their licence | {source.licence} |

The decoder is under the Apache License 2.0; the encoder keeps its own licence.
"""
