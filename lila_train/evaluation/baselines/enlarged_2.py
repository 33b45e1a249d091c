"""The encoder on an input enlarged by 2; see `enlarged`."""

from functools import partial

from lila_train.evaluation.baselines import enlarged

build = partial(enlarged.build, factor=2)
call, estimate = enlarged.call, enlarged.estimate
