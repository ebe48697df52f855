"""Forward, loss and backward of a training batch as a CUDA graph: captured once for each shape of batch, then replayed.

A step of a small network is some thousand kernels, and Python launches them more slowly than a GPU runs them. A graph holds them
all and is launched at once. It computes the same bits: before a graph is used, it is compared on a real batch with the step done
kernel by kernel, and where the two differ, the run goes on without graphs.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from xceptlab.data.module import Batch
from xceptlab.schema import RunConfig
from xceptlab.text import say

WARM_UP = 2
"""Batches of a shape that are done kernel by kernel before it is captured: libraries load and compile what they need."""

Outputs = dict[str, Tensor]
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes work on fixed tensors, without doing it, and returns what does it, again and again."""


def recorder(trainer: pl.Trainer, config: RunConfig) -> Recorder | None:
    """How a run's steps are captured; None for a run whose steps are not, which on a GPU is told of."""
    if not config.runtime.capture or trainer.strategy.root_device.type != "cuda":
        return None
    why = ""
    if trainer.world_size > 1:
        why = "on several devices gradients are exchanged while they are computed"
    elif config.train.precision == "16-mixed":
        why = "16-mixed scales each loss by what it finds in the gradients"
    if why and trainer.is_global_zero:
        launched(why)
    return None if why else cuda_recorder()


def launched(why: str) -> None:
    """Say that steps are not captured."""
    say(f"steps are launched kernel by kernel, not replayed from a CUDA graph: {why}")


def cuda_recorder() -> Recorder:
    """What captures work in CUDA graphs, which share their memory, since one is replayed after the other."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may pin memory meanwhile
            work()
        return graph.replay

    return record


@dataclass(frozen=True)
class _Graph:
    """A captured step: tensors to fill, a graph to replay, tensors to read."""

    inputs: dict[str, Tensor]
    """By the names of a batch's fields."""
    outputs: Outputs
    replay: Callable[[], None]


@dataclass(frozen=True)
class _State:
    """What a step changes: the gradients and the network's buffers, and the generator that dropout draws from."""

    tensors: list[Tensor]
    generator: Tensor


class CapturedStep:
    """Outputs and gradients of a batch, by graphs where they are captured.

    Args:
        forward: From a batch to the step's outputs; the gradients are those of ``loss`` among them.
        network: Its parameters get the gradients, and its buffers are what a forward pass changes.
        accumulate: Batches of an optimizer step; each adds the gradients of its loss divided by this.
        record: How work is captured.
    """

    def __init__(self, forward: Callable[[Batch], Outputs], network: nn.Module, accumulate: int, record: Recorder) -> None:
        self.forward, self.network, self.accumulate, self.record = forward, network, accumulate, record
        self._device = next(network.parameters()).device
        self._parameters: list[nn.Parameter] = []
        self._gradients: list[Tensor] = []
        self._graphs: dict[Hashable, _Graph] = {}
        self._seen: Counter[Hashable] = Counter()
        self._given_up = False

    def __call__(self, batch: Batch, *, first: bool) -> Outputs | None:
        """The batch's outputs, with the gradients in place; None where the caller has to do it kernel by kernel.

        Args:
            batch: On the device.
            first: Whether it is the first batch of an optimizer step, whose gradients replace those that are there.
        """
        key = (first, batch.weight, *(value.shape for value in _tensors(batch).values()))
        if graph := self._graphs.get(key):
            self._bind_gradients(first)
            for name, value in _tensors(batch).items():
                graph.inputs[name].copy_(value, non_blocking=True)
            graph.replay()
            return graph.outputs
        self._seen[key] += 1
        if self._given_up or self._seen[key] <= WARM_UP:
            return None
        if not self._gradients:  # of the parameters that have one by now; others are frozen or have no part in the loss
            self._parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
            self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._bind_gradients(first)
        return self._capture(key, batch, first)

    def _bind_gradients(self, first: bool) -> None:
        """Hand the optimizer the gradients of the graphs, after a batch done kernel by kernel that may have put its elsewhere."""
        if not first and self._parameters[0].grad is not self._gradients[0]:
            there = [parameter.grad for parameter in self._parameters]
            torch._foreach_copy_(self._gradients, there)  # type: ignore[arg-type]
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _capture(self, key: Hashable, batch: Batch, first: bool) -> Outputs:
        """Do a batch kernel by kernel, then by a new graph, and keep the graph if both come to the same bits."""
        inputs: dict[str, Any] = {name: value.clone() for name, value in _tensors(batch).items()}
        copied = batch._replace(**inputs)
        before = self._state()
        expected = self._computed(copied, first)
        after = self._state()
        outputs = {name: torch.empty_like(value) for name, value in expected.items()}

        def work() -> None:
            for name, value in self._computed(copied, first).items():
                outputs[name].copy_(value)

        self._restore(before)
        try:
            replay = self.record(work)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
        else:
            replay()
            if _same([*self._state().tensors, *outputs.values()], [*after.tensors, *expected.values()]):
                self._graphs[key] = _Graph(inputs, outputs, replay)
                return outputs
            self._give_up("a captured step comes to other bits than one that is not")
        self._restore(after)
        return expected

    def _computed(self, batch: Batch, first: bool) -> Outputs:
        """Forward and backward; the gradients replace or join those of the optimizer step."""
        kind = self._device.type
        dtype, mixed = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, mixed, cache_enabled=False):  # weights that are cast must be cast anew in each replay
            outputs = self.forward(batch)
        with torch.autocast(kind, enabled=False):
            gradients = torch.autograd.grad(outputs["loss"] / self.accumulate, self._parameters)
        if first:
            torch._foreach_copy_(self._gradients, gradients)
        else:
            torch._foreach_add_(self._gradients, gradients)
        return {name: value.detach() for name, value in outputs.items()}

    def _state(self) -> _State:
        cuda = self._device.type == "cuda"
        generator = torch.cuda.get_rng_state(self._device) if cuda else torch.get_rng_state()
        return _State([tensor.clone() for tensor in self._changed()], generator)

    def _restore(self, state: _State) -> None:
        for tensor, value in zip(self._changed(), state.tensors, strict=True):
            tensor.copy_(value)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state.generator, self._device)
        else:
            torch.set_rng_state(state.generator)

    def _changed(self) -> list[Tensor]:
        return [*self._gradients, *self.network.buffers()]

    def _give_up(self, why: str) -> None:
        self._given_up = True
        launched(why)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}


def _same(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    """Whether all tensors are equal, NaN to NaN; not asked where arithmetic itself does not repeat to the bit."""
    if not torch.are_deterministic_algorithms_enabled():
        return True
    return all(bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True))
