"""A batch's work as a CUDA graph: captured once for each shape of batch, then replayed.

A training step (forward, loss and backward) of a small network is some thousand kernels, an
evaluated batch some hundred, and Python launches them more slowly than a GPU runs them. A graph
holds them all and is launched at once. It computes the same bits: before a graph is used, it is
compared on a real batch with the work done kernel by kernel, and where the two differ, the run goes
on without graphs. With ``train.deterministic: false`` arithmetic itself does not repeat to the bit,
and nothing is compared.

A graph computes with the memory at which parameters and buffers lay when it was captured. A layer
or an optimizer from outside may put new tensors in their place, or freeze a parameter: this is
looked for before each batch, and ends the use of graphs.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from xceptlab.config.schema import RunConfig
from xceptlab.data.module import Batch
from xceptlab.text import say

WARM_UP = 2
"""Number of batches of a shape that are computed kernel by kernel before one is captured; libraries
load and compile what they need meanwhile.
"""

REPLACED = "parameters or buffers of the network are replaced, frozen or unfrozen"
"""Why graphs of a network are of no use: a clause that ends the message to the user."""

Outputs = dict[str, Tensor]
"""What is computed for a batch, by name, such as ``loss`` or ``logits``."""
Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""A function that takes a function without arguments, which computes on tensors at fixed places in
memory, records what it computes, and returns a function that repeats it when called.
"""


def recorder(trainer: pl.Trainer, config: RunConfig) -> Recorder | None:
    """Return the recorder that captures a run's work as CUDA graphs. It is None, and nothing is
    captured, on any device but a CUDA GPU, and with ``runtime.capture: false``.
    """
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if config.runtime.capture and on_gpu:
        return cuda_recorder()
    return None


def steps_are_capturable(trainer: pl.Trainer, config: RunConfig) -> bool:
    """Whether the training steps of a run on a GPU can be captured as CUDA graphs. On several
    devices, with the precision 16-mixed and with registered callbacks they cannot, and the first
    process tells the user why.
    """
    if trainer.world_size > 1:
        why = "on several devices gradients are exchanged while they are computed"
    elif config.train.precision == "16-mixed":
        why = "16-mixed scales each loss by what it finds in the gradients"
    elif config.train.callbacks:
        why = "a callback may change what they compute"
    else:
        return True
    if trainer.is_global_zero:
        say_not_captured("training steps", why)
    return False


def say_not_captured(work: str, why: str) -> None:
    """Tell the user that some work is not captured as CUDA graphs, and why.

    Args:
        work: The work, a plural such as "training steps".
        why: The reason, a clause that ends the message.
    """
    say(f"{work} are launched kernel by kernel, not replayed from a CUDA graph: {why}")


def cuda_recorder() -> Recorder:
    """Return a recorder of CUDA graphs. All that it records share their memory, so that only one
    may be replayed at a time.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Let other threads pin memory meanwhile, as those of data loaders do.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        return graph.replay

    return record


Slot = tuple[dict[str, Tensor | None], str]
"""Where a module keeps a parameter or a buffer: one of the module's dictionaries, and a name."""
Place = tuple[int, bool] | None
"""Address of a slot's tensor on the device, and whether it requires a gradient; None where the slot
is empty.
"""


@dataclass(frozen=True)
class _Graph:
    """The work on a batch of one shape, captured as a CUDA graph. Copy a batch into ``inputs``,
    call ``replay``, and read ``outputs``.
    """

    inputs: dict[str, Tensor]
    """The tensors of a batch, by the names of its fields; a batch is copied into them."""
    outputs: Outputs
    """The tensors that a replay writes its results to."""
    replay: Callable[[], None]
    """Does the work once more, on what ``inputs`` hold."""


@dataclass(frozen=True)
class _State:
    """A copy of the tensors and of the random state that captured work changes, from which they can
    be put back.
    """

    tensors: list[Tensor]
    generator: Tensor
    """The state of the random generator that dropout draws from."""


class Captured:
    """Evaluates batches by CUDA graphs: one is captured for each shape and ``Batch.weight`` of
    batches, once ``WARM_UP`` such batches have been computed kernel by kernel.

    Args:
        forward: Computes the outputs of a batch.
        network: The network that ``forward`` calls. Once a parameter or buffer lies at another
            place in memory than at the last capture, or was frozen or unfrozen since, no graph is
            used any more.
        record: Captures the work as a graph.
    """

    work = "evaluations"
    """Name of the captured work in messages, a plural."""

    def __init__(
        self, forward: Callable[[Batch], Outputs], network: nn.Module, record: Recorder
    ) -> None:
        self.forward, self.network, self.record = forward, network, record
        self._device = next(network.parameters()).device
        self._graphs: dict[Hashable, _Graph] = {}
        self._seen: Counter[Hashable] = Counter()
        """Number of batches that came without a graph, by kind of work and shape."""
        self._slots: list[Slot] = []
        """The slots of the network's parameters and buffers at the last capture. They are kept,
        since walking through all modules takes longer than many a graph.
        """
        self._places: list[Place] = []
        """What lay in these slots then."""
        self._given_up = False
        """Whether no further graph is tried, as one could not be captured or came to other bits, or
        tensors of the network were replaced.
        """

    def __call__(self, batch: Batch, first_of_step: bool = False) -> Outputs | None:
        """Compute the outputs of a batch, if there is a graph for it or one is captured now.

        Args:
            batch: The batch, on the device.
            first_of_step: Whether the batch is the first of its optimizer step, whose work has a
                graph of its own; an evaluation leaves it False.

        Returns:
            The outputs, valid until the next call. None where nothing was computed, and the caller
            has to do it kernel by kernel.
        """
        if self._graphs and self._are_replaced():
            self._drop_graphs()
        key = (first_of_step, batch.weight, *(value.shape for value in _tensors(batch).values()))
        graph = self._graphs.get(key)
        if graph:
            self._prepare(first_of_step)
            for name, value in _tensors(batch).items():
                graph.inputs[name].copy_(value, non_blocking=True)
            graph.replay()
            return graph.outputs
        self._seen[key] += 1
        if self._given_up or self._seen[key] <= WARM_UP:
            return None
        self._prepare(first_of_step)
        return self._capture(key, batch, first_of_step)

    def _prepare(self, first_of_step: bool) -> None:
        """Prepare the tensors that the work writes besides its outputs, before a batch is computed.
        An evaluation has none, so nothing is done.
        """

    def _computed(self, batch: Batch, first_of_step: bool) -> Outputs:
        """Compute the outputs of a batch kernel by kernel; whether it is the first of its optimizer
        step makes no difference to an evaluation.
        """
        kind = self._device.type
        dtype, mixed = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        # Autocast must not keep the weights that it has cast: each replay has other weights.
        with torch.autocast(kind, dtype, mixed, cache_enabled=False):
            return self.forward(batch)

    def _changed(self) -> list[Tensor]:
        """Return the tensors that the work changes besides its outputs: none in an evaluation."""
        return []

    def _capture(self, key: Hashable, batch: Batch, first_of_step: bool) -> Outputs:
        """Capture the work on a batch as a CUDA graph, and keep the graph if it repeats the work to
        the bit.

        The batch is computed twice from the same state: kernel by kernel, then by the graph. If the
        outputs or the tensors that the work changes differ, if the work puts new tensors in the
        place of parameters or buffers, or if it cannot be captured, the results of the first
        computation stand and no further graph is tried. Without deterministic algorithms no values
        are compared.

        Args:
            key: The key under which the graph is kept.
            batch: The batch, on the device.
            first_of_step: Whether the batch is the first of its optimizer step.

        Returns:
            The outputs of the batch.
        """
        inputs: dict[str, Any] = {name: value.clone() for name, value in _tensors(batch).items()}
        copied = batch._replace(**inputs)
        self._slots = _slots(self.network)
        self._places = _places(self._slots)
        # While these hold the memory, no new tensor can lie at the place of an old one.
        held = [tensor.detach() for tensor in (*self.network.parameters(), *self.network.buffers())]
        before = self._state()
        expected = self._computed(copied, first_of_step)
        is_replaced = self._are_replaced()
        del held
        if is_replaced:
            self._drop_graphs()
            return expected
        after = self._state()
        outputs = {name: torch.empty_like(value) for name, value in expected.items()}

        def work() -> None:
            for name, value in self._computed(copied, first_of_step).items():
                outputs[name].copy_(value)

        self._restore(before)
        try:
            replay = self.record(work)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
        else:
            replay()
            replayed = [*self._state().tensors, *outputs.values()]
            if _same(replayed, [*after.tensors, *expected.values()]):
                self._graphs[key] = _Graph(inputs, outputs, replay)
                return outputs
            self._give_up("what is captured comes to other bits than what is not")
        self._restore(after)
        return expected

    def _state(self) -> _State:
        """Copy the tensors that the work changes besides its outputs, and the random state."""
        cuda = self._device.type == "cuda"
        generator = torch.cuda.get_rng_state(self._device) if cuda else torch.get_rng_state()
        return _State([tensor.clone() for tensor in self._changed()], generator)

    def _restore(self, state: _State) -> None:
        """Put the tensors and the random state back that ``_state`` has copied."""
        for tensor, value in zip(self._changed(), state.tensors, strict=True):
            tensor.copy_(value)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state.generator, self._device)
        else:
            torch.set_rng_state(state.generator)

    def _are_replaced(self) -> bool:
        """Whether the network's parameters and buffers lie at other places in memory than before the
        last capture, or other ones require a gradient.
        """
        return _places(self._slots) != self._places

    def _drop_graphs(self) -> None:
        """Use no graph any more, as they compute with tensors that are the network's no longer."""
        self._graphs.clear()
        self._give_up(REPLACED)

    def _give_up(self, why: str) -> None:
        """Try no further graph, and tell the user; ``why`` is a clause that ends the message."""
        self._given_up = True
        say_not_captured(self.work, why)


class CapturedStep(Captured):
    """Runs forward and backward of training batches by CUDA graphs, which are captured once
    ``WARM_UP`` batches of the same kind have been computed kernel by kernel.

    The first batch of an optimizer step (``first_of_step``) has graphs of its own: its gradients
    replace those that are there, and the gradients of the step's other batches are added.

    Args:
        forward: Computes the outputs of a batch; the gradients are those of ``loss`` among them.
        network: The network, whose parameters get the gradients. A forward pass may change its
            buffers, and nothing else.
        record: Captures the work as a graph.
        accumulate: Number of batches of an optimizer step; the loss of each is divided by it.
    """

    work = "training steps"

    def __init__(
        self,
        forward: Callable[[Batch], Outputs],
        network: nn.Module,
        record: Recorder,
        accumulate: int,
    ) -> None:
        super().__init__(forward, network, record)
        self.accumulate = accumulate
        self._parameters: list[nn.Parameter] = []
        """The parameters that get gradients; known from the first captured batch on."""
        self._gradients: list[Tensor] = []
        """The tensors to which graphs write the gradients of these parameters, in their order."""

    def _prepare(self, first_of_step: bool) -> None:
        """Use the tensors that graphs write to as the gradients of the parameters.

        The batch before may have been computed kernel by kernel, so that its gradients are in other
        tensors. They are copied unless this batch is the first of its step.
        """
        # Batches were computed before: a parameter without a gradient is frozen or has no part in
        # the loss.
        if not self._gradients:
            self._parameters = []
            for parameter in self.network.parameters():
                if not parameter.requires_grad:
                    # It may still have the gradient of a batch before it was frozen.
                    parameter.grad = None
                elif parameter.grad is not None:
                    self._parameters.append(parameter)
            self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        if not first_of_step and self._parameters[0].grad is not self._gradients[0]:
            elsewhere = [parameter.grad for parameter in self._parameters]
            torch._foreach_copy_(self._gradients, elsewhere)  # type: ignore[arg-type]
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _computed(self, batch: Batch, first_of_step: bool) -> Outputs:
        """Run forward and backward kernel by kernel, and return the detached outputs. The gradients
        of the first batch of a step replace those that are there; those of others are added.
        """
        outputs = super()._computed(batch, first_of_step)
        with torch.autocast(self._device.type, enabled=False):
            gradients = torch.autograd.grad(outputs["loss"] / self.accumulate, self._parameters)
        if first_of_step:
            torch._foreach_copy_(self._gradients, gradients)
        else:
            torch._foreach_add_(self._gradients, gradients)
        return {name: value.detach() for name, value in outputs.items()}

    def _changed(self) -> list[Tensor]:
        return [*self._gradients, *self.network.buffers()]


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Return the tensors of a batch, by the names of its fields; other fields are left out."""
    return {name: value for name, value in batch._asdict().items() if isinstance(value, Tensor)}


def _slots(network: nn.Module) -> list[Slot]:
    """Return the slots in which the modules of a network keep parameters and buffers, also the
    empty ones.
    """
    slots: list[Slot] = []
    for module in network.modules():
        slots += [(module._parameters, name) for name in module._parameters]  # type: ignore[misc]
        slots += [(module._buffers, name) for name in module._buffers]
    return slots


def _places(slots: list[Slot]) -> list[Place]:
    """Return the place of what each of these slots of a network holds, in their order. It is called
    before each batch, and takes less than 0.1 ms for all slots of Xception.
    """
    tensors = [tensors.get(name) for tensors, name in slots]
    return [None if x is None else (x.data_ptr(), x.requires_grad) for x in tensors]


def _same(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    """Whether two sequences of tensors have equal values, NaN equal to NaN.

    Without ``torch.use_deterministic_algorithms`` two correct results may differ. Then nothing is
    compared, and the answer is yes.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return True
    return all(bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True))
