"""The pass: output and row statistics over blocks, without ever holding the weights.

By the first of three ways that takes the request: the compiled one and the brief one, which leave
some rows to the general one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor

from service.attention.blocks import KEY_BLOCK
from service.attention.brief.attending import Brief
from service.attention.collected import Attended, Precision, Wanted
from service.attention.general import General
from service.attention.logits import Logits
from service.attention.native.fused import Fused
from service.attention.native.library import Native
from service.attention.normalizing import Direct, Weighing
from service.attention.workers import Checkpoint, Workers
from service.shape import Shape


class _Asked(TypedDict):
    """What each way looks at before it takes a request."""

    shape: Shape
    wanted: Wanted
    precision: Precision


def attend(
    logits: Logits,
    value: Tensor | None,
    weighing: Weighing,
    *,
    shape: Shape,
    wanted: Wanted,
    precision: Precision,
    device: torch.device,
    workers: Workers,
    checkpoint: Checkpoint = lambda: None,
    native: Native | None = None,
    doubt: Callable[[], None] | None = None,
) -> Attended:
    """Run the pass over all rows.

    Args:
        logits: the pipeline up to the normaliser.
        value: (batch, kv_heads, M, d_v) in the compute dtype, or None.
        weighing: how logits become weights.
        shape: the resolved extents.
        wanted: what to collect.
        precision: dtypes of arithmetic, output and weights.
        device: where it runs.
        workers: the threads that share the units.
        checkpoint: called between units.
        native: the compiled pass, where it is to be used.
        doubt: called before anything that is not finite is computed with; raises if it need not be.

    Returns:
        Output and statistics, and the matrices that are wanted.
    """
    job = General(
        logits,
        value,
        weighing,
        shape,
        wanted,
        precision,
        device,
        checkpoint,
        key_block=key_block(shape, wanted, weighing),
    )
    asked: _Asked = {"shape": shape, "wanted": wanted, "precision": precision}
    if device.type == "cpu":
        fused = None
        if native is not None:
            fused = Fused.of(native, logits, job.weighed, weighing, **asked)
        if fused is not None:
            job.collect(blocks=True, filled=False)
            given_back = fused.run(job.into, workers, checkpoint)
            if given_back and doubt is not None:
                doubt()
            job.take_over(given_back, workers)
            return replace(job.into.result(), native=True)
        brief = Brief.of(logits, job.weighed, weighing, **asked)
        if brief is not None:
            job.collect(blocks=True, filled=False)
            job.take_over(brief.run(job.into, workers, checkpoint), workers)
            return job.into.result()
    job.collect(blocks=job.key_block < shape.key_length)
    job.run(workers)
    return job.into.result()


def key_block(shape: Shape, wanted: Wanted, weighing: Weighing) -> int:
    """How many keys are taken at a time.

    Shown weights need the row's final maximum, so whole rows are taken where a matrix is held.
    """
    whole = wanted.matrices or (isinstance(weighing, Direct) and weighing.whole_rows)
    return shape.key_length if whole else min(KEY_BLOCK, shape.key_length)
