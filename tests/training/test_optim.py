"""Learning rates at known steps, weight-decay groups, and the average of weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.swa_utils import AveragedModel

from xceptlab.config.schema import TrainConfig
from xceptlab.training.optim import (
    AverageWeights,
    learning_rate_factor,
    optimizer,
    parameter_groups,
    schedule,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


# ---- schedules -----------------------------------------------------------------------------------


def test_the_papers_schedule_is_a_staircase_of_094_every_2_epochs():
    at = learning_rate_factor(TrainConfig(epochs=6), steps_per_epoch=10)
    assert [at(step) for step in (0, 10, 19)] == [1.0, 1.0, 1.0]
    assert [at(step) for step in (20, 39)] == pytest.approx([0.94, 0.94])
    assert [at(step) for step in (40, 59)] == pytest.approx([0.94**2, 0.94**2])


def test_the_stairs_may_be_parts_of_an_epoch():
    at = learning_rate_factor(
        TrainConfig(epochs=2, decay_epochs=0.5, decay_rate=0.5), steps_per_epoch=10
    )
    assert [at(step) for step in (4, 5, 9, 10, 19)] == [1.0, 0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("decay_epochs", [0.1, 0.2, 0.3, 0.7, 1.1, 2.4])
def test_no_stair_is_a_step_late_by_rounding(decay_epochs):
    at = learning_rate_factor(
        TrainConfig(epochs=50, decay_epochs=decay_epochs, decay_rate=0.5), steps_per_epoch=10
    )
    width = round(10 * decay_epochs)
    assert [at(step) for step in range(500)] == [0.5 ** (step // width) for step in range(500)]


def test_constant_is_constant():
    at = learning_rate_factor(TrainConfig(epochs=3, schedule="constant"), steps_per_epoch=10)
    assert {at(step) for step in range(30)} == {1.0}


@pytest.mark.parametrize("kind", ["constant", "exponential", "cosine"])
def test_the_warm_up_rises_linearly_to_the_full_rate_and_never_starts_at_zero(kind):
    at = learning_rate_factor(
        TrainConfig(epochs=10, schedule=kind, warmup=0.1, decay_epochs=100.0), steps_per_epoch=10
    )
    assert [at(step) for step in range(10)] == pytest.approx(
        [0.1 * (step + 1) for step in range(10)]
    )
    assert at(10) == 1.0


def test_the_cosine_passes_half_in_the_middle_and_ends_near_zero():
    at = learning_rate_factor(
        TrainConfig(epochs=10, schedule="cosine", warmup=0.2), steps_per_epoch=10
    )
    assert at(20) == 1.0
    assert at(60) == pytest.approx(0.5)
    assert 0 < at(99) < 0.001
    after_warmup = [at(step) for step in range(20, 100)]
    assert after_warmup == sorted(after_warmup, reverse=True)


def test_the_schedule_sets_the_optimizers_rate_at_every_step():
    train = TrainConfig(epochs=2, schedule="cosine", warmup=0.25, lr=0.1)
    own = optimizer(network(), train)
    rates, ruler = [], schedule(own, train, steps_per_epoch=4)
    for _ in range(8):
        rates.append(own.param_groups[0]["lr"])
        own.step()
        ruler.step()
    assert rates == pytest.approx([0.1 * learning_rate_factor(train, 4)(step) for step in range(8)])
    assert rates[:2] == pytest.approx([0.05, 0.1])


# ---- optimizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("rmsprop", RMSprop), ("adamw", AdamW)])
def test_the_optimizer_is_torchs_with_the_configured_numbers(name, kind):
    own = optimizer(network(), TrainConfig(optimizer=name, lr=0.3, momentum=0.7, weight_decay=0.01))
    assert type(own) is kind
    assert own.param_groups[0]["lr"] == 0.3
    assert own.param_groups[0]["weight_decay"] == 0.01
    assert own.param_groups[0].get("momentum", 0.7) == 0.7


@pytest.mark.parametrize("nesterov", [True, False])
def test_nesterovs_momentum_is_passed_on(nesterov):
    assert (
        optimizer(network(), TrainConfig(nesterov=nesterov)).param_groups[0]["nesterov"] is nesterov
    )


def test_by_default_all_parameters_decay():
    own = network()
    (group,) = parameter_groups(own, TrainConfig(weight_decay=0.1))
    assert {id(p) for p in group["params"]} == {id(p) for p in own.parameters()}
    assert group["weight_decay"] == 0.1


def test_norms_and_biases_are_spared_where_so_configured():
    own = network()
    decayed, spared = parameter_groups(own, TrainConfig(weight_decay=0.1, decay_norm_bias=False))
    names = {id(p): name for name, p in own.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"0.weight", "3.weight"}
    assert {names[id(p)] for p in spared["params"]} == {"0.bias", "1.weight", "1.bias", "3.bias"}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


# ---- the average of weights ----------------------------------------------------------------------


class Averaged:
    """The average that the callback keeps of a model, step by step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.callback, self.steps = AverageWeights(decay), 0
        self.callback._average_model = AveragedModel(model, use_buffers=True)
        self.module = self.callback._average_model.module

    def step(self, current: nn.Module) -> None:
        """An optimizer step has come to these weights."""
        self.steps += 1
        trainer = SimpleNamespace(global_step=self.steps)
        self.callback.on_train_start(trainer, current)
        self.callback.on_train_batch_end(trainer, current, None, None, 0)


def zero() -> nn.BatchNorm1d:
    """A network of one weight, 0."""
    model = nn.BatchNorm1d(1)
    nn.init.zeros_(model.weight)
    return model


def test_the_decay_of_the_average_warms_up_as_tensorflows():
    average, weight = Averaged(nn.BatchNorm1d(1), 0.5), 0.0
    average.step(zero())  # the first weights are the average
    for t in range(1, 30):
        current = nn.BatchNorm1d(1)
        nn.init.constant_(current.weight, float(t))
        average.step(current)
        decay = min(0.5, (1 + t) / (10 + t))
        weight = decay * weight + (1 - decay) * t
        assert average.module.weight.item() == pytest.approx(weight, rel=1e-5)


def test_batchnorm_statistics_are_averaged_and_its_count_is_copied():
    average = Averaged(nn.BatchNorm1d(1), 0.5)
    average.step(zero())
    current = nn.BatchNorm1d(1)
    current.running_mean.fill_(11.0)
    current.num_batches_tracked.fill_(7)
    average.step(current)
    assert average.module.running_mean.item() == pytest.approx((1 - 2 / 11) * 11.0)
    assert average.module.num_batches_tracked.item() == 7


def test_averaging_equal_weights_changes_nothing():
    torch.manual_seed(0)
    own = network()
    average = Averaged(own, 0.9)
    for _ in range(3):
        average.step(own)
    assert all(
        torch.equal(a, b)
        for a, b in zip(average.module.parameters(), own.parameters(), strict=True)
    )


def test_between_the_batches_of_a_step_nothing_is_averaged():
    average = Averaged(zero(), 0.5)
    average.step(zero())
    average.steps -= 1  # another batch, no other step
    average.step(nn.BatchNorm1d(1))
    assert average.module.weight.item() == 0
