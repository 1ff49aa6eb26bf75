"""What a net says of images and of state dicts that its model does not take, instead of torch's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import Tiny
from torch import nn

from lowmode_fx import BernoulliSchedule, LowModeModel, TrainStep, build_pair

IMAGES = torch.zeros(2, 3, 16, 16)


def tiny_net(p: float = 1.0, **options: Any) -> LowModeModel:
    return LowModeModel(build_pair(Tiny(), IMAGES), BernoulliSchedule(p), **{"compile": False, **options})


CALLS: list[tuple[torch.Tensor, str]] = [
    (
        torch.zeros(2, 1, 16, 16),
        "Tiny fails on images (2, 1, 16, 16), of 1 channel; give images (N, 3, 16, 16), for which its modes "
        "were built, or build a model for yours",
    ),
    (
        torch.zeros(2, 16, 16, 3),
        "Tiny fails on images (2, 16, 16, 3), whose channels are last; give images "
        "(N, 3, 16, 16), as images.permute(0, 3, 1, 2)",
    ),
    (
        torch.zeros(3, 16, 16),
        "Tiny fails on (3, 16, 16), an image without a batch; give images (N, 3, 16, 16), as image.unsqueeze(0)",
    ),
    (
        torch.zeros(2, 3, 16, 16, dtype=torch.float64),
        "Tiny fails on images of torch.float64, with weights of torch.float32; give images.to(torch.float32)",
    ),
]


def said(error: BaseException) -> str:
    """The message without what torch said, which it holds."""
    assert error.__cause__ is not None
    cause = f" ({str(error.__cause__).splitlines()[0]})"
    assert cause in str(error)
    return str(error).replace(cause, "")


@pytest.mark.parametrize(("images", "told"), CALLS)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_images_that_the_model_does_not_take(p: float, images: torch.Tensor, told: str) -> None:
    net = tiny_net(p)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = TrainStep(net, nn.functional.cross_entropy, optimizer)
    calls: list[Callable[[], Any]] = [
        lambda: net(images),
        lambda: step(images, torch.tensor([0, 1])),
        lambda: net.run(net.mode, images),
    ]
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        assert said(error.value) == told
    net(IMAGES)


def test_images_that_are_as_they_should_be_have_the_models_own_error() -> None:
    class Failing(Tiny):
        fails = False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.fails:
                raise RuntimeError("of the model's own")
            return super().forward(images)

    model = Failing()
    net = LowModeModel(build_pair(model, IMAGES), BernoulliSchedule(1.0), compile=False)
    model.fails = True
    with pytest.raises(RuntimeError, match=r"^of the model's own$"):
        net(IMAGES)


def test_a_compiled_mode_says_the_same() -> None:
    with pytest.raises(
        ValueError, match=r"^Tiny fails on images \(2, 1, 16, 16\), of 1 channel; give images \(N, 3, 16, 16\), "
    ):
        tiny_net(0.0, compile_options={"backend": "eager"}, compile=True)(torch.zeros(2, 1, 16, 16))


def prefixed(prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in Tiny().state_dict().items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.model."])
def test_a_state_dict_with_the_prefix_of_a_wrapper(prefix: str) -> None:
    state_dict = prefixed(prefix)
    with pytest.raises(RuntimeError) as error:
        tiny_net().load_state_dict(state_dict)
    told, _, give = str(error.value).partition("; give ")
    assert told == f"the keys of state_dict begin with {prefix!r} and those of Tiny don't"
    tiny_net().load_state_dict(eval(give))  # as it says


@pytest.mark.parametrize("name", ["model", "state_dict"])
def test_a_checkpoint_that_holds_the_state_dict(name: str) -> None:
    state_dict = {name: Tiny().state_dict(), "epoch": 3}
    with pytest.raises(RuntimeError) as error:
        tiny_net().load_state_dict(state_dict)
    assert str(error.value) == f"state_dict holds a state dict of Tiny as {name!r}; give state_dict[{name!r}]"
    tiny_net().load_state_dict(state_dict[name])


def test_a_lightning_checkpoint_leads_to_its_weights_in_two_steps() -> None:
    state_dict = {"state_dict": prefixed("net."), "epoch": 3}
    with pytest.raises(RuntimeError, match=r"; give state_dict\['state_dict'\]$"):
        tiny_net().load_state_dict(state_dict)


def test_a_state_dict_of_another_model() -> None:
    own = Tiny().state_dict()
    first, *rest = own
    other = {"conv9.weight": torch.zeros(1), **{name: own[name] for name in rest}}
    last = rest[-1]
    other[last] = torch.zeros(7)
    give = "give one of this model, or, to load what fits, without those of another shape, and with strict=False"
    with pytest.raises(RuntimeError) as error:
        tiny_net().load_state_dict(other)
    assert str(error.value) == (
        f"state_dict is of another model than Tiny: it lacks {first}, it has the unknown conv9.weight, of another "
        f"shape are {last} (7, here {own[last].shape[0]}); {give}"
    )
    net = tiny_net()
    del other[last]
    other[rest[0]] = torch.full_like(own[rest[0]], 3)
    found = net.load_state_dict(other, strict=False)
    assert found.unexpected_keys == ["conv9.weight"] and (net.state_dict()[rest[0]] == 3).all()


@pytest.mark.parametrize(("given", "told"), [(Tiny(), "state_dict is of type Tiny"), ("run.pt", "state_dict='run.pt'")])
def test_what_is_no_state_dict(given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=f"^{told}.*; give a state dict, as model.state_dict"):
        tiny_net().load_state_dict(given)


def test_a_schedule_state_that_lacks_an_entry() -> None:
    with pytest.raises(KeyError, match=r"state has no 'epoch'; give what net\.schedule_state\(\) returned"):
        tiny_net().load_schedule_state({"step": 1})


def test_data_parallel_without_replicas_runs_the_net_itself() -> None:
    """On a CPU, as on one GPU, ``nn.DataParallel`` calls its module."""
    runs = []
    for wrap in (lambda net: net, nn.DataParallel):
        torch.manual_seed(0)
        net = tiny_net(0.5)
        called, optimizer = wrap(net), torch.optim.SGD(net.parameters(), lr=0.1)
        net.attach(optimizer)
        modes = []
        for _ in range(6):
            nn.functional.cross_entropy(called(torch.randn(2, 3, 16, 16)), torch.tensor([0, 1])).backward()
            optimizer.step()
            optimizer.zero_grad()
            modes.append(net.last_mode)
        assert net.step == 6 and len(set(modes)) == 2
        runs.append((modes, net.state_dict()))
    (modes, plain), (same_modes, wrapped) = runs
    assert modes == same_modes and all(torch.equal(value, wrapped[name]) for name, value in plain.items())


@pytest.mark.parametrize("training", [True, False])
def test_replicas_of_data_parallel_are_refused(training: bool) -> None:
    replica = tiny_net().train(training)._replicate_for_data_parallel()  # as replicate() makes one for each GPU
    with pytest.raises(ValueError, match=r"^nn\.DataParallel over several GPUs is not supported: .*; use Distributed"):
        replica(IMAGES)


class Particular(nn.Module):
    """Takes images of any dtype, and has errors of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.conv, self.head, self.error = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.float64:
            raise self.error
        return self.head(self.conv(images.float()).mean((2, 3)))


@pytest.mark.parametrize(
    "error",
    [
        IndexError("my index"),
        ValueError("label 11 is too large"),
        RuntimeError("mine"),
        torch.OutOfMemoryError("dtype"),
    ],
)
def test_a_models_own_errors_stay_as_they_are(error: Exception) -> None:
    net = LowModeModel(build_pair(Particular(error), torch.zeros(2, 3, 16, 16)), BernoulliSchedule(0.0), compile=False)
    with pytest.raises(type(error)) as raised:
        net(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    assert raised.value is error


def test_running_out_of_memory_in_a_layer_of_torch_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on images of another kind: who halves batches then looks for this class."""
    place: dict[str, Any] = {"__name__": "torch.nn.functional"}
    exec("def fail(*args, **kwargs):\n    raise error", place)
    place["error"] = torch.OutOfMemoryError("no memory for a tensor of dtype float64")
    net = LowModeModel(build_pair(Tiny(), torch.zeros(2, 3, 32, 32)), BernoulliSchedule(0.0), compile=False)
    monkeypatch.setattr(nn.Conv2d, "forward", place["fail"])
    with pytest.raises(torch.OutOfMemoryError) as raised:
        net(torch.zeros(2, 3, 32, 32, dtype=torch.float64))
    assert raised.value is place["error"]
