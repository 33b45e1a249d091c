"""One forward and backward pass: a trainable decoder (and the head of ablation A) on a frozen encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lila_cues.networks import FrozenEncoder
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.init import init_pca
from lila_train.training.config import FEATURES, TrainConfig
from lila_train.training.crops import View
from lila_train.training.distributed import Rank
from lila_train.training.losses import Losses, losses_of
from lila_train.training.objective import Erm, InContext
from stores.errors import LilaError


class TrainStep:
    """The trained modules, and the gradient of a batch with respect to their parameters.

    Args:
        device_batch_size: most pairs of one forward pass, to save memory; None: this rank's share of a batch.
        compile: compile the arithmetic from images to losses; callbacks use the modules as they are.
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        config: TrainConfig,
        rank: Rank | None = None,
        *,
        device_batch_size: int | None = None,
        compile: bool = False,
    ) -> None:
        if config.crop_size % encoder.patch_size:
            raise LilaError(
                f"--crop-size must be a multiple of {encoder.patch_size}, the patch of {encoder.name}, found "
                f"{config.crop_size}"
            )
        rank = rank or Rank()
        self.encoder, self.config, self.device_batch_size = encoder, config, device_batch_size
        self.world_size = rank.world_size
        torch.manual_seed(config.seed)
        self.decoder = Decoder(DecoderWidths.of_encoder(encoder.width, config.decoder_width)).to(rank.device)
        self.head: Erm | None = None
        if config.objective == "erm":
            self.head = Erm(config, self.decoder.widths.out, encoder.width).to(rank.device)
        self.objective = self.head or InContext(config)
        self._decode: nn.Module = self.decoder
        self.ema = copy.deepcopy(self.decoder).requires_grad_(False) if config.ema else None
        self._predict: Callable[..., list[Tensor]] = self.objective
        if rank.world_size > 1:  # average gradients over ranks
            devices = [rank.device] if rank.device.type == "cuda" else None
            average = partial(DistributedDataParallel, device_ids=devices, gradient_as_bucket_view=True)
            self._decode = average(self._decode)
            self._predict = self._predict if self.head is None else average(self.head)
        self._losses = torch.compile(self.losses) if compile else self.losses

    @torch.no_grad()
    def init_pca(self, images: Float[Tensor, "b 3 s s"], rank: Rank) -> None:
        """Start the decoder as a linear upsampler of the encoder, by the principal components of all ranks' images."""
        parts = images.split(self.device_batch_size or len(images))
        tokens = torch.cat([self.encoder(part)[2].float().movedim(1, -1).flatten(0, 2) for part in parts])
        init_pca(self.decoder, tokens, rank.all_reduce_sum, rank.is_main)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name: neither the encoder's nor those of the final LayerNorm."""
        decoder = {f"decoder.{name}": p for name, p in self.decoder.named_parameters() if p.requires_grad}
        return decoder | {f"head.{name}": p for name, p in (self.head.named_parameters() if self.head else ())}

    @property
    def exported(self) -> Decoder:
        """The decoder that is scored and exported: with `ema` the moving average, else the one that is trained."""
        return self.ema or self.decoder

    def update_ema(self, step: int) -> None:
        """Move the average towards the weights after `step` earlier updates, which it follows closely at first."""
        if self.ema is not None:
            weight = 1 - min(self.config.ema, step / (step + 10))  # the first update copies
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.decoder.parameters()), weight)

    def backward(self, context: View, query: View) -> Losses:
        """Add the gradients of a batch to the parameters'; return its losses, without a gradient.

        Over ranks, the mean of the losses is that of the global batch.
        """
        size = self.device_batch_size or len(context.image)
        parts = [slice(start, start + size) for start in range(0, len(context.image), size)]
        packed = []
        for part in parts:
            with ExitStack() as stack:
                for module in (self._decode, self._predict):
                    if isinstance(module, DistributedDataParallel) and part is not parts[-1]:
                        stack.enter_context(module.no_sync())
                losses = self._losses(context[part], query[part])
                losses.total.backward()
            packed.append(losses.packed())
        return Losses.unpack(torch.stack(packed).sum(0))

    def losses(self, context: View, query: View) -> Losses:
        """Return the objective's losses on two views; the total carries the gradient."""
        x_context, x_query, context, query = self.forward(context, query, self._decode)
        predictions = self._predict(x_context, x_query, context, query)
        scored = self.objective.scored(context, query)
        counts = torch.stack([view.counts for view in scored]).sum(0) / self.world_size  # DDP averages over ranks
        first, *others = [
            losses_of(predicted, view.target, view.valid, counts, self.config)
            for predicted, view in zip(predictions, scored, strict=True)
        ]
        return sum(others, start=first)

    def forward(self, context: View, query: View, decode: nn.Module) -> tuple[Tensor, Tensor, View, View]:
        """Return features b×d×s×s of both views, and the views with all of their targets."""
        images = torch.cat((context.image, query.image))
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            tokens = self.encoder(images)
            features = decode(tokens, (images.shape[-2], images.shape[-1]))
        if FEATURES in self.config.cues and self.config.distilled == "online":
            context_tokens, query_tokens = tokens[-1].float().chunk(2)
            context, query = context.with_features(context_tokens), query.with_features(query_tokens)
        x_context, x_query = features.chunk(2)
        return x_context, x_query, context, query

    @torch.no_grad()
    def predict(self, context: View, query: View) -> tuple[Tensor, Tensor, Tensor, View]:
        """Return both views' features, the prediction of the query's targets b×k×s×s, and the query with all targets.

        Without communication between ranks.
        """
        x_context, x_query, context, query = self.forward(context, query, self.exported)
        return x_context, x_query, self.objective(x_context, x_query, context, query)[-1], query

    def extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds beside the decoder and the optimizer's state: head and moving average."""
        parts = {"head": self.head, "ema": self.ema}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None}).state_dict()

    def restore(self, decoder: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> None:
        self.decoder.load_state_dict(dict(decoder))
        for name, values in self.extra_state().items():  # which are those of the modules
            values.copy_(extra[name])
