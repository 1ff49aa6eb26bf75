"""One rank of a job that ``tests/integrations/test_ranks.py`` starts: ``torchrun trainer_worker.py CHECK FOLDER``."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from trainers import DATA, IMAGES, LABELS, SCHEDULE, make, network, plain_loop, sgd

from lowmode_fx import LowModeModel, build_pair, host_loader


def runner(on: str) -> LowModeModel:
    return make(model=network(norm=False), downsample_on=on)


def agreed(value: Any) -> None:
    """Every rank has the same."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    assert all(each == found[0] for each in found), found


def as_one_process(net: LowModeModel, modes: list[str]) -> None:
    """The weights and modes of the loop by hand on the joined batches."""
    agreed(modes)
    agreed([value.sum().item() for value in net.parameters()])
    ours = runner("device")
    assert modes == plain_loop(ours, 2) and {"low", "full"} == set(modes)
    for value, expected in zip(net.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def batches(net: LowModeModel) -> DataLoader[Any]:
    return host_loader(DATA, net, 4) if net.downsample_on == "host" else DataLoader(DATA, batch_size=4)


def check_lightning(folder: Path) -> None:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    from lowmode_fx.integrations.lightning import LowModeCallback

    class Module(lightning.LightningModule):
        def __init__(self, net: LowModeModel) -> None:
            super().__init__()
            self.net, self.modes = net, []  # type: ignore[var-annotated]

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.modes.append(str(self.net.last_mode))
            return loss

        def configure_optimizers(self) -> Any:
            return sgd(self)

        def train_dataloader(self) -> Any:
            return batches(self.net)

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    ended = []
    for on in ("device", "host"):
        module = Module(runner(on))
        strategy = DDPStrategy(process_group_backend="gloo")
        lightning.Trainer(
            max_epochs=2, accelerator="cpu", devices=2, strategy=strategy, callbacks=[LowModeCallback()],
            default_root_dir=folder, **quiet,
        ).fit(module)  # fmt: skip
        agreed(module.modes)
        agreed([value.sum().item() for value in module.parameters()])
        assert module.modes == [SCHEDULE.mode(step, 0).value for step in range(8)]
        ended.append(module.net.state_dict())
    # Lightning shuffles, the same in both; what the loader downsamples is what the net does.
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value, rtol=1e-4, atol=1e-6)


def check_accelerate(folder: Path) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    from lowmode_fx.integrations.accelerate import captured_step, prepare

    for on, dispatch, whole in itertools.product(("device", "host"), (False, True), (False, True)):
        loading = DataLoaderConfiguration(dispatch_batches=dispatch)
        accelerator, net = Accelerator(cpu=True, dataloader_config=loading), runner(on)
        trained, optimizer, loader = prepare(accelerator, net, sgd(net), batches(net))
        step = captured_step(accelerator, trained, F.cross_entropy, optimizer) if whole else None
        modes = []
        for epoch in range(2):
            net.set_epoch(epoch)
            for images, labels in loader:
                if step is not None:
                    step(images, labels)
                else:
                    accelerator.backward(F.cross_entropy(trained(images), labels))
                    optimizer.step()
                    optimizer.zero_grad()
                modes.append(str(net.last_mode))
        as_one_process(net, modes)


class Samples(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index], "labels": LABELS[index]}


def check_transformers(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

    from lowmode_fx.integrations.transformers import LowModeCallback

    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    model = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=5))
    pair = build_pair(model, {"pixel_values": IMAGES[:4], "labels": LABELS[:4]})
    net, modes = LowModeModel(pair, SCHEDULE, compile=False).train(), []  # type: ignore[var-annotated]
    net.register_forward_hook(lambda model, args, output: model.training and modes.append(str(net.last_mode)))
    options = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "ddp_backend": "gloo"}
    arguments = TrainingArguments(
        str(folder), use_cpu=True, num_train_epochs=2, per_device_train_batch_size=4, **options
    )
    Trainer(model=net, args=arguments, train_dataset=Samples(), callbacks=[LowModeCallback()]).train()
    agreed(modes)
    agreed([value.sum().item() for value in net.parameters()])
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(8)] and net.step == 8


def check_timm(folder: Path) -> None:
    from lowmode_fx.integrations.timm import LowModeTask

    dist.init_process_group("gloo")
    net = runner("device")
    optimizer = sgd(net)
    task = LowModeTask(net, torch.nn.CrossEntropyLoss(), verbose=False)
    task.attach(optimizer)
    task.prepare_distributed()
    modes, rank, half = [], dist.get_rank(), 4
    for epoch in range(2):
        task.set_epoch(epoch)
        for first in range(rank * half, len(IMAGES), 2 * half):
            task(IMAGES[first : first + half], LABELS[first : first + half])["loss"].backward()
            modes.append(str(net.last_mode))
            optimizer.step()
            optimizer.zero_grad()
    as_one_process(net, modes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[f"check_{sys.argv[1]}"](Path(sys.argv[2]))
    print(f"{sys.argv[1]}: ok on {dist.get_world_size()} ranks", flush=True)
    dist.destroy_process_group()
