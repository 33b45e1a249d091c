"""What learns, and one batch's worth of it: the decoder (and ablation A's head) over a frozen encoder.

How the weights move: AdamW and its learning rate over a run (docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lila_cues.networks import FrozenEncoder
from lila_train.model.checkpoint import under
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.training.config import FEATURES, TrainConfig
from lila_train.training.crops import View, cut_views
from lila_train.training.data import PairBatch
from lila_train.training.distributed import Rank
from lila_train.training.losses import Counts
from lila_train.training.objective import Erm, InContext, Losses, Objective
from stores.errors import LilaError


@dataclass(frozen=True)
class Hardware:
    """Where and how a batch is computed; nothing here changes its result beyond rounding.

    chunks: parts of a rank's batch that are computed one after the other, to save memory.
    """

    device: torch.device
    rank: Rank = field(default_factory=Rank)
    chunks: int = 1
    compile: bool = False


class TrainStep:
    """The learned parts, and the gradient of a batch with respect to them."""

    def __init__(self, encoder: FrozenEncoder, settings: TrainConfig, hardware: Hardware) -> None:
        method = settings.method
        if method.view_size % encoder.patch_size:
            raise LilaError(
                f"--view-size must be a multiple of {encoder.patch_size}, the patch of {encoder.name}, found "
                f"{method.view_size}"
            )
        self.encoder, self.settings, self.hardware = encoder, settings, hardware
        torch.manual_seed(settings.seed)
        self.decoder = Decoder(DecoderWidths.of_encoder(encoder.width, settings.decoder_width)).to(hardware.device)
        self.head = Erm(method, self.decoder.widths.out, encoder.width) if method.objective == "erm" else None
        if self.head is not None:
            self.head.to(hardware.device)
        self._decode = self._wrapped_decoder()
        self._objective = self._wrapped_objective()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimiser moves, by name: never the encoder, nor the final LayerNorm."""
        decoder = {f"decoder.{name}": p for name, p in self.decoder.named_parameters() if p.requires_grad}
        return decoder | {f"head.{name}": p for name, p in (self.head.named_parameters() if self.head else ())}

    def backward(self, batch: PairBatch) -> Losses:
        """The losses of a batch that is on the device; their gradients are added to the parameters'."""
        context, query = cut_views(batch, self.settings.method)
        counts = self._objective.counts(context, query)
        parts = _parts(len(batch.clips), self.hardware.chunks)
        losses = [self._backward(context.part(p), query.part(p), counts, last=p is parts[-1]) for p in parts]
        return Losses(*(torch.stack([getattr(part, f) for part in losses]).sum() for f in ("total", "l1", "edge")))

    def losses(self, context: View, query: View, counts: Counts) -> Losses:
        """The objective's losses on two views; the total carries the gradient."""
        return self._objective(*self._features(self._decode, context, query), counts)

    @torch.no_grad()
    def predicted(self, context: View, query: View) -> tuple[Tensor, Tensor, Tensor, View]:
        """Features b×d×s×s of both views, the query's cues b×k×s×s read off them, and the query with all its cues.

        For looking at, on this rank alone.
        """
        of_context, of_query, context, query = self._features(self.decoder, context, query)
        objective = self.head or InContext(self.settings.method)
        return of_context, of_query, objective.predicted(of_context, of_query, context, query), query

    def _features(self, decode: nn.Module, context: View, query: View) -> tuple[Tensor, Tensor, View, View]:
        """Features of both views, and the views with the cues that only the step can tell."""
        images = torch.cat((context.image, query.image))
        half = self.settings.precision == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
            tokens = self.encoder(images)
            features = decode(tokens, (images.shape[-2], images.shape[-1]))
        if FEATURES in self.settings.method.cues and self.settings.method.distilled == "online":
            of_context, of_query = tokens[-1].float().chunk(2)
            context, query = context.with_features(of_context), query.with_features(of_query)
        of_context, of_query = features.chunk(2)
        return of_context, of_query, context, query

    def head_tensors(self) -> dict[str, Tensor]:
        """The head's tensors under `head.`, none where there is no head."""
        return {f"head.{name}": t for name, t in (self.head.state_dict().items() if self.head else ())}

    def restore(self, decoder: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> None:
        """Take the weights of a checkpoint."""
        self.decoder.load_state_dict(dict(decoder))
        if self.head is not None:
            self.head.load_state_dict({n: t for n, t in under(extra, "head.").items() if n.count(".") == 1})

    def _backward(self, context: View, query: View, counts: Counts, *, last: bool) -> Losses:
        with ExitStack() as stack:
            if isinstance(self._decode, DistributedDataParallel) and not last:
                stack.enter_context(self._decode.no_sync())
            losses = self.losses(context, query, counts)
            losses.total.backward()
        return Losses(losses.total.detach(), losses.l1.detach(), losses.edge.detach())

    def _wrapped_decoder(self) -> nn.Module:
        """The decoder as it is called: compiled and shared among ranks where that was asked for."""
        decode: nn.Module = self.decoder.to(memory_format=torch.channels_last)
        if self.hardware.compile:
            decode.compile()
            self.encoder.compile()
        return DistributedDataParallel(decode) if self.hardware.rank.world_size > 1 else decode

    def _wrapped_objective(self) -> Objective:
        if self.head is None:
            return InContext(self.settings.method)
        return _SharedErm(self.head) if self.hardware.rank.world_size > 1 else self.head


class _SharedErm:
    """The head of `Erm`, its gradients averaged over ranks."""

    def __init__(self, head: Erm) -> None:
        self._head = head
        self._shared = DistributedDataParallel(head)

    def counts(self, context: View, query: View) -> Counts:
        """As the head counts them."""
        return self._head.counts(context, query)

    def __call__(self, of_context: Tensor, of_query: Tensor, context: View, query: View, counts: Counts) -> Losses:
        losses: Losses = self._shared(of_context, of_query, context, query, counts)
        return losses


def _parts(length: int, chunks: int) -> list[slice]:
    size = -(-length // chunks)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def optimizer(parameters: Iterable[nn.Parameter], settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is learned."""
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Of step `step`: linear warm-up from 1/w to all of it, then constant, or half a cosine down to 0 at the end."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
