"""Test that the trainer's batches are those of torch's own DataLoader, for all of its arguments and hooks."""

import inspect
import os
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from mlkit.training import LengthGroupedBatches
from mlkit.training.batches import ChangedDataError, LoaderBatches, TensorBatches, is_plain, make_batches
from mlkit.training.trainer import Trainer

X = torch.arange(40.0).reshape(40, 1)
Y = torch.zeros(40, 1)


def tensors():
    return TensorDataset(X.clone(), Y.clone())


class Numbers(Dataset):
    """Samples (i * scale, 0), without random numbers."""

    scale = 1.0

    def __init__(self, length=40):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return X[i] * self.scale, Y[i]


class InBatches(Numbers):
    """Has torch's hook for a whole batch."""

    def __getitems__(self, indices):
        return [self[i] for i in reversed(indices)]


class Doubled(TensorDataset):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return 2 * x, y


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X[:11], Y[:11])


class Backwards(DataLoader):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class EvenFirst:
    """A sampler that is torch's in nothing but its methods."""

    def __len__(self):
        return 40

    def __iter__(self):
        yield from range(0, 40, 2)
        yield from range(1, 40, 2)


def patched_dataset():
    dataset = tensors()
    dataset.__getitems__ = lambda indices: [(X[0], Y[0]) for _ in indices]
    return dataset


def patched_loader(*args, **options):
    loader = DataLoader(*args, **options)
    get_iterator = loader._get_iterator
    loader._get_iterator = lambda: iter(list(get_iterator())[:1])
    return loader


def scale(worker):
    get_worker_info().dataset.scale = 100.0


def collate(samples):
    return dict(zip(("x", "y"), default_collate(samples)), size=len(samples))


def batch_sampler(dataset):
    return BatchSampler(SubsetRandomSampler(range(0, 40, 3)), 4, False)


def generator():
    return torch.Generator().manual_seed(7)


# For each argument of DataLoader: other options than the default, each a function of the dataset.
ARGUMENTS = dict(
    dataset=[
        lambda d: dict(),
        lambda d: dict(dataset=Subset(d, [5, 3, 1])),
        lambda d: dict(dataset=InBatches(), batch_size=4),
        lambda d: dict(dataset=Doubled(X, Y), batch_size=4),
        lambda d: dict(dataset=patched_dataset(), batch_size=4),
        lambda d: dict(dataset=Stream(), batch_size=4),
        lambda d: dict(dataset=list(zip(X, Y)), batch_size=4),
    ],
    batch_size=[lambda d: dict(batch_size=16), lambda d: dict(batch_size=None)],
    shuffle=[lambda d: dict(shuffle=True, batch_size=3)],
    sampler=[
        lambda d: dict(sampler=EvenFirst(), batch_size=3),
        lambda d: dict(sampler=[3, -1, 2], batch_size=2),
        lambda d: dict(sampler=SubsetRandomSampler([3, -1, 2]), batch_size=2),
        lambda d: dict(sampler=RandomSampler(d, replacement=True, num_samples=70), batch_size=32),
    ],
    batch_sampler=[
        lambda d: dict(batch_sampler=batch_sampler(d)),
        lambda d: dict(batch_sampler=[(1, 2), (3,)]),
        lambda d: dict(batch_sampler=LengthGroupedBatches(range(40), 8)),
    ],
    num_workers=[lambda d: dict(num_workers=1, batch_size=16, shuffle=True)],
    collate_fn=[lambda d: dict(collate_fn=collate, batch_size=16)],
    pin_memory=[lambda d: dict(pin_memory=True, batch_size=16)],
    drop_last=[lambda d: dict(drop_last=True, batch_size=16, shuffle=True)],
    timeout=[lambda d: dict(timeout=30, num_workers=1, batch_size=16)],
    worker_init_fn=[lambda d: dict(worker_init_fn=scale, num_workers=1, batch_size=16)],
    multiprocessing_context=[
        lambda d: dict(multiprocessing_context="spawn", worker_init_fn=scale, num_workers=1, batch_size=16),
        lambda d: dict(multiprocessing_context="forkserver", worker_init_fn=scale, num_workers=1, batch_size=16),
    ],
    generator=[
        lambda d: dict(generator=generator(), shuffle=True, batch_size=16),
        lambda d: dict(generator=generator(), shuffle=True, batch_size=16, num_workers=1),
    ],
    prefetch_factor=[lambda d: dict(prefetch_factor=1, num_workers=1, batch_size=3)],
    persistent_workers=[lambda d: dict(persistent_workers=True, num_workers=1, batch_size=16, shuffle=True)],
    pin_memory_device=[lambda d: dict(pin_memory_device="cuda", batch_size=16)],
    in_order=[
        lambda d: dict(in_order=False, batch_size=16),
        lambda d: dict(in_order=False, num_workers=1, batch_size=16),
    ],
)

CASES = [(name, i) for name in inspect.signature(DataLoader).parameters for i in range(len(ARGUMENTS.get(name, ())))]


def test_every_argument_of_torchs_loader_is_known():
    """If a later torch has another argument, decide what it means for a source of batches, and add it above."""
    unknown = set(inspect.signature(DataLoader).parameters) - set(ARGUMENTS)
    assert not unknown


def same(a, b):
    """Return whether two batches are equal, also in their types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_epochs(make, epochs=2):
    """Compare some epochs, and the generators after each, with torch's own."""
    torch.manual_seed(1)
    loader = make()
    expected = [(list(loader), torch.rand(1)) for _ in range(epochs)]
    torch.manual_seed(1)
    batches = make_batches(make())
    for epoch, (expected_batches, number) in enumerate(expected):
        batches.set_epoch(epoch)
        assert same(list(batches), expected_batches), epoch
        assert torch.equal(torch.rand(1), number), epoch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, case, dataset",
    [
        (name, case, dataset)
        for name, case in CASES
        for dataset in (tensors, Numbers)
        # a new interpreter takes seconds, one dataset is enough
        if (name, dataset) != ("multiprocessing_context", tensors)
    ],
)
def test_an_argument_is_torchs_own(name, case, dataset):
    def make():
        d = dataset()
        options = dict(dataset=d) | ARGUMENTS[name][case](d)
        return DataLoader(**options)

    if name != "persistent_workers":
        assert_same_epochs(make, 1 if name == "multiprocessing_context" else 2)
        return
    # the order of the second epoch is drawn after a number that torch does not draw
    torch.manual_seed(1)
    expected = list(make())
    torch.manual_seed(1)
    batches = make_batches(make())
    assert same(list(batches), expected)
    assert sorted(x.item() for x, _ in batches for x in x) == list(range(40))


@pytest.mark.parametrize("make", [lambda: Backwards(tensors(), 16), lambda: patched_loader(tensors(), 16)])
def test_a_loader_with_other_methods_is_used_as_it_is(make):
    assert not is_plain(make())
    assert_same_epochs(make)


def test_a_timeout_without_workers_is_torchs_error():
    for loader in DataLoader(tensors(), timeout=3), DataLoader(Numbers(), timeout=3):
        with pytest.raises(AssertionError):
            list(make_batches(loader))


def test_batches_in_no_fixed_order_are_told_apart():
    loader = DataLoader(Numbers(), 4, num_workers=2, in_order=False)
    assert "in_order=False" in make_batches(loader).inexact
    assert sorted(int(i) for x, _ in make_batches(loader) for i in x) == list(range(40))
    with pytest.raises(ValueError, match="in_order=False, with which each process would cut its shard from another"):
        make_batches(loader, 0, 2)


class FromFile(Dataset):
    """Opens its file in each worker."""

    def __init__(self, path):
        self.path = path
        self.file = None

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.tensor([float(self.file[i])]), torch.zeros(1)


def open_file(worker):
    dataset = get_worker_info().dataset
    assert isinstance(dataset, FromFile)
    dataset.file = dataset.path.read_bytes()


def seed_own_generator(worker):
    info = get_worker_info()
    info.dataset.offset = info.id


def inputs_of(loader, epochs=1, **options):
    """Return the inputs that a run trains on: for each epoch a list of batches."""
    record = Record()
    train(loader, epochs, [record], **options)
    return record.epochs


class Record:
    def __init__(self):
        self.epochs = []

    def before_epoch(self, trainer):
        self.epochs.append([])

    def before_batch(self, trainer):
        self.epochs[-1].append(trainer.x.flatten().tolist())


class Stop:
    def __init__(self, epoch, batches):
        self.place = epoch, batches

    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch + 1) == self.place:
            trainer.stop("enough")


def train(loader, epochs=1, callbacks=(), folder=None, **options):
    for seed in torch.manual_seed, random.seed, np.random.seed:
        seed(1)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    trainer = Trainer(model, loader, optimizer, nn.MSELoss(), callbacks=callbacks, checkpoints=folder, **options)
    trainer.fit(epochs)
    return trainer


@pytest.mark.parametrize("persistent", [False, True])
def test_what_worker_init_fn_does_counts_in_training_and_validation(persistent, tmp_path):
    options = dict(num_workers=1, persistent_workers=persistent)
    scaled = inputs_of(DataLoader(Numbers(), 40, worker_init_fn=scale, **options), epochs=2)
    assert scaled == [[(100 * X).flatten().tolist()]] * 2
    file = tmp_path / "numbers"
    file.write_bytes(bytes([5, 6, 7, 8]))
    loader = DataLoader(FromFile(file), 4, worker_init_fn=open_file, **options)
    assert inputs_of(loader, valid_loader=loader) == [[[5, 6, 7, 8]]]


def change_batch_size(trainer):
    trainer.train_loader.batch_sampler.batch_size = 32


def change_drop_last(trainer):
    trainer.train_loader.batch_sampler.drop_last = True


def change_tensors(trainer):
    trainer.train_loader.dataset.tensors = X[:7] + 1, Y[:7]


def change_length(trainer):
    trainer.train_loader.dataset.length = 5


def change_scale(trainer):
    trainer.train_loader.dataset.scale = 3.0


def change_collate(trainer):
    trainer.train_loader.collate_fn = lambda samples: (
        torch.stack([x for x, _ in samples]) + 1,
        torch.zeros(len(samples), 1),
    )


def change_workers(trainer):
    trainer.train_loader.num_workers = 1
    trainer.train_loader.prefetch_factor = 3
    trainer.train_loader.worker_init_fn = scale


def change_generator(trainer):
    trainer.train_loader.generator = generator()
    trainer.train_loader.sampler.generator = generator()


def change_sampler(trainer):
    trainer.train_loader.sampler.replacement = True


def change_loader(trainer):
    trainer.train_loader = DataLoader(tensors(), 20, shuffle=True)


class At:
    """Call a function before an epoch."""

    def __init__(self, epoch, change):
        self.epoch = epoch
        self.change = change

    def before_epoch(self, trainer):
        if trainer.epoch == self.epoch:
            self.change(trainer)


FOR_TENSORS = change_batch_size, change_drop_last, change_tensors, change_collate, change_generator, change_sampler
FOR_NUMBERS = change_batch_size, change_length, change_scale, change_collate, change_workers, change_sampler


@pytest.mark.parametrize(
    "dataset, change",
    [(tensors, c) for c in (*FOR_TENSORS, change_loader)] + [(Numbers, c) for c in (*FOR_NUMBERS, change_loader)],
)
def test_what_a_callback_changes_before_an_epoch_counts(dataset, change, tmp_path):
    """The batches of each epoch are those of a plain loop with the same changes, also in a run that was stopped."""

    class Holder:
        train_loader = None

    def loader():
        return DataLoader(dataset(), 16, sampler=RandomSampler(range(7 if change is change_tensors else 40)))

    if change in (change_tensors, change_length):

        def loader():
            return DataLoader(dataset(), 16)

    for seed in torch.manual_seed, random.seed, np.random.seed:
        seed(1)
    nn.Linear(1, 1)  # draws its weights, as that of the run
    holder = Holder()
    holder.train_loader = loader()
    expected = []
    for epoch in range(3):
        if epoch == 1:
            change(holder)
        expected.append([x.flatten().tolist() for x, _ in holder.train_loader])
    changed = expected[0] != expected[1] or change in (change_generator,)
    assert changed
    record = Record()
    train(loader(), 3, [At(1, change), record])
    assert record.epochs == expected
    if change is change_tensors:
        return  # a program that starts again has the first tensors
    folder = tmp_path / "stopped"
    record = Record()
    train(loader(), 3, [At(1, change), record, Stop(1, 1)], folder)
    record_rest = Record()

    class Again(At):
        def before_epoch(self, trainer):
            if trainer.epoch >= 1:
                self.change(trainer)
                self.change = lambda trainer: None

    train(loader(), 3, [Again(1, change), record_rest], folder)
    assert record.epochs[1] + record_rest.epochs[0] == expected[1]
    assert record_rest.epochs[1] == expected[2]
    folder = tmp_path / "complete"
    train(loader(), 2, [At(1, change)], folder)
    record = Record()
    train(loader(), 3, [Again(1, change), record], folder)
    assert record.epochs == expected[2:]


def test_another_loader_for_validation_counts():
    losses = []

    class ChangeValidation:
        def before_epoch(self, trainer):
            if trainer.epoch == 1:
                trainer.valid_loader = DataLoader(TensorDataset(X + 100, Y), 8)

        def after_epoch(self, trainer):
            losses.append(trainer.last_metrics["valid_loss"])

    trainer = train(DataLoader(tensors(), 40), 2, [ChangeValidation()], valid_loader=DataLoader(tensors(), 8))
    assert losses[1] > 2 * losses[0]
    assert trainer.valid_loader is trainer.evaluator.loader is trainer.random_states.valid_loader


def test_persistent_workers_stay_as_long_as_nothing_changes():
    processes = []

    class Where(Numbers):
        def __getitem__(self, i):
            return torch.tensor([float(os.getpid())]), Y[i]

    class Look:
        def after_batch(self, trainer):
            processes.append(trainer.x[0].item())

        def before_epoch(self, trainer):
            if trainer.epoch == 2:
                trainer.train_loader.collate_fn = lambda samples: default_collate(samples)

    train(DataLoader(Where(), 40, num_workers=1, persistent_workers=True), 4, [Look()])
    assert processes[0] == processes[1] != processes[2] == processes[3]


class WithEpoch:
    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class EpochDataset(WithEpoch, Numbers):
    def __init__(self):
        WithEpoch.__init__(self)
        Numbers.__init__(self)


class EpochStream(WithEpoch, Stream):
    pass


class EpochSampler(WithEpoch):
    def __len__(self):
        return 40

    def __iter__(self):
        return iter(range(40))


class EpochBatchSampler(WithEpoch, BatchSampler):
    def __init__(self, *args):
        WithEpoch.__init__(self)
        BatchSampler.__init__(self, *args)


class EpochLoader(WithEpoch):
    def __iter__(self):
        yield X, Y


def test_set_epoch_is_called_once_for_each_object(tmp_path):
    sampler = EpochSampler()
    plain = DataLoader(EpochDataset(), 16, sampler=sampler)
    both = DataLoader(EpochDataset(), batch_sampler=EpochBatchSampler(sampler, 16, False))
    cases = [
        (plain, [plain.dataset, plain.sampler]),
        (both, [both.dataset, both.batch_sampler, sampler]),
        (DataLoader(EpochStream(), 4), None),
        (EpochLoader(), None),
    ]
    for loader, objects in cases:
        objects = objects or [getattr(loader, "dataset", loader)]
        for o in objects:
            o.epochs.clear()
        train(loader, 3)
        assert [o.epochs for o in objects] == [[0, 1, 2]] * len(objects)
    folder = tmp_path / "run"
    train(plain, 3, [Stop(1, 2)], folder)
    plain.dataset.epochs.clear()
    train(plain, 3, folder=folder)
    assert plain.dataset.epochs == [1, 2]


def test_a_distributed_sampler_shuffles_each_epoch():
    dataset = tensors()
    epochs = inputs_of(DataLoader(dataset, 16, sampler=DistributedSampler(dataset, 1, 0)), 2)
    assert epochs[0] != epochs[1]


def test_validation_announces_no_epoch():
    """Augmentation that depends on the epoch would make validations incomparable."""
    dataset = EpochDataset()
    train(DataLoader(tensors(), 16), 2, valid_loader=DataLoader(dataset, 16))
    assert dataset.epochs == []


POSITIONS = dict(
    tensors=lambda size: DataLoader(tensors(), size, shuffle=True),
    generator=lambda size: DataLoader(tensors(), size, shuffle=True, generator=generator()),
    map_style=lambda size: DataLoader(Numbers(), size, shuffle=True),
    workers=lambda size: DataLoader(Numbers(), size, shuffle=True, num_workers=1),
    workers_generator=lambda size: DataLoader(Numbers(), size, shuffle=True, num_workers=1, generator=generator()),
    custom_sampler=lambda size: DataLoader(Numbers(), size, sampler=EvenFirst()),
)


@pytest.mark.parametrize("new_size", [24, 5, 16])
@pytest.mark.parametrize("name", POSITIONS)
def test_each_sample_comes_once_with_another_batch_size(name, new_size, tmp_path):
    make = POSITIONS[name]
    first = Record()
    train(make(16), 2, [first, Stop(0, 1)], tmp_path)
    second = Record()
    # stopped again, now at a place that is no multiple of either size
    train(make(new_size), 2, [second, Stop(0, 2)], tmp_path)
    third = Record()
    trainer = train(make(7), 2, [third], tmp_path)
    samples = sum(first.epochs[0] + second.epochs[0] + (third.epochs[0] if len(third.epochs) == 2 else []), [])
    assert sorted(samples) == X.flatten().tolist()
    assert sorted(sum(third.epochs[-1], [])) == X.flatten().tolist()
    assert len(trainer.history.steps) == trainer.step
    assert [e["epoch"] for e in trainer.history.epochs] == [1, 2]


def test_the_mean_loss_is_over_all_samples_after_another_batch_size(tmp_path):
    class Frozen:
        def before_step(self, trainer):
            for p in trainer.parameters:
                p.grad.zero_()

    train(DataLoader(tensors(), 16, shuffle=True), 1, [Stop(0, 1), Frozen()], tmp_path)
    trainer = train(
        DataLoader(tensors(), 5, shuffle=True), 1, [Frozen()], tmp_path, valid_loader=DataLoader(tensors(), 40)
    )
    metrics = trainer.history.epochs[0]
    assert metrics["train_loss"] == pytest.approx(metrics["valid_loss"], rel=1e-6)


def test_accumulation_continues_with_another_batch_size(tmp_path):
    first = Record()
    train(DataLoader(tensors(), 8, shuffle=True), 1, [first, Stop(0, 2)], tmp_path, accumulate=2)
    second = Record()
    trainer = train(DataLoader(tensors(), 5, shuffle=True), 1, [second], tmp_path, accumulate=2)
    assert sorted(sum(first.epochs[0] + second.epochs[0], [])) == X.flatten().tolist()
    assert trainer.step == 1 + 3  # 16 samples in one step, then 24 in batches of 5, two a step


def test_compiled_steps_continue_with_another_batch_size(tmp_path):
    """This holds also where torch cannot compile a step, and the trainer trains eagerly."""
    first = Record()
    train(DataLoader(tensors(), 8, shuffle=True), 1, [first, Stop(0, 2)], tmp_path, compile="step")
    second = Record()
    train(DataLoader(tensors(), 6, shuffle=True), 2, [second], tmp_path, compile="step")
    assert sorted(sum(first.epochs[0] + second.epochs[0], [])) == X.flatten().tolist()
    assert sorted(sum(second.epochs[1], [])) == X.flatten().tolist()


@pytest.mark.parametrize("name", ["tensors", "map_style", "workers"])
def test_two_processes_continue_with_another_batch_size(name):
    make = POSITIONS[name]

    def read(size, batches, skip=0, position=None):
        """Return the samples of both processes, and the position after so many batches."""
        samples = []
        for rank in range(2):
            torch.manual_seed(1)
            source = make_batches(make(size), rank, 2)
            if position:
                source.continue_at(position)
            for i, (x, _) in enumerate(source.start(skip), skip):
                if i == skip + batches:
                    break
                samples += x.flatten().tolist()[: source.share(i)[0]]
        return samples, source.position(skip + batches)

    first, position = read(16, 1)
    second, position = read(5, 2, 1, position)
    third, _ = read(9, 100, 3, position)
    assert (len(first), len(second)) == (16, 10)
    assert sorted(first + second + third) == X.flatten().tolist()


REFUSED = dict(
    lengths=(
        lambda size: DataLoader(Numbers(), batch_sampler=LengthGroupedBatches([*range(20)] * 2, size)),
        "samples of the epoch, which are done, do not come out the same",
    ),
    stream=(lambda size: DataLoader(Stream(), size), "the batch size was 4 and is 3"),
    seed=(
        lambda size: DataLoader(Numbers(), size, sampler=np.random.default_rng(size).permutation(40)),
        "do not come out the same",
    ),
)


@pytest.mark.parametrize("name", REFUSED)
def test_a_place_that_cannot_be_found_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    train(make(4), 3, [Stop(0, 1)], tmp_path)
    with pytest.raises(ChangedDataError, match=message) as error:
        train(make(3), 3, folder=tmp_path)
    assert "or pass changed_data='next_epoch'" in str(error.value)
    trainer = train(make(3), 3, folder=tmp_path, changed_data="next_epoch")
    assert [e["epoch"] for e in trainer.history.epochs] == [2, 3]


class Shifted(Numbers):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + self.by + torch.rand(1) / 100, y


class HubDataset(Numbers):
    """Like a dataset of Hugging Face."""

    def __init__(self, fingerprint):
        super().__init__()
        self._fingerprint = fingerprint


class Attributes(Numbers):
    """A custom dataset that keeps its samples in attributes, and may count what was loaded."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.loaded = []
        self.cache = [None] * len(self)

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        self.loaded.append(i)
        self.cache[i] = x + torch.as_tensor(self.values[i])
        return self.cache[i], y


CHANGES = dict(
    attribute_tensor=(lambda: Attributes(X + 0), lambda: Attributes(X + 1), "its content differs"),
    attribute_array=(lambda: Attributes(X.numpy()), lambda: Attributes(X.numpy() + 1), "its content differs"),
    attribute_list=(
        lambda: Attributes([float(i) for i in range(40)]),
        lambda: Attributes([float(i + 1) for i in range(40)]),
        "its content differs",
    ),
    attribute_of_a_part=(
        lambda: Subset(Attributes(X + 0), range(20)),
        lambda: Subset(Attributes(X + 0), range(1, 21)),
        "its content differs",
    ),
    shorter=(tensors, lambda: TensorDataset(X[:30], Y[:30]), "its length is 30, was 40"),
    shorter_map_style=(Numbers, lambda: Numbers(30), "its length is 30, was 40"),
    content=(tensors, lambda: TensorDataset(X + 1, Y), "its content differs, and its length is the same, 40"),
    subclass=(lambda: Doubled(X, Y), lambda: Doubled(X + 1, Y), "its content differs"),
    fingerprint=(lambda: HubDataset("a"), lambda: HubDataset("b"), "its _fingerprint is b, was a"),
    workers=(lambda: Shifted(0), lambda: Shifted(1), "its content differs"),
)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_is_refused_in_the_middle_of_an_epoch(name, tmp_path, capsys):
    before, after, message = CHANGES[name]
    options = dict(num_workers=1) if name == "workers" else {}
    train(DataLoader(before(), 8, **options), 1, folder=tmp_path)
    train(DataLoader(before(), 8, **options), 3, [Stop(1, 2)], tmp_path)
    with pytest.raises(ChangedDataError, match=message):
        train(DataLoader(after(), 8, **options), 3, folder=tmp_path)
    capsys.readouterr()
    record = Record()
    trainer = train(DataLoader(after(), 8, **options), 3, [record], tmp_path, changed_data="next_epoch")
    assert (
        f"Continuing with epoch 3: the data of the checkpoint, in the middle of an epoch, has changed: {message}"
        in (capsys.readouterr().out)
    )
    assert [e["epoch"] for e in trainer.history.epochs] == [1, 3]
    assert sum(map(len, record.epochs[-1])) == len(after())


def test_changed_data_is_reported_between_epochs(tmp_path, capsys):
    train(DataLoader(tensors(), 8), 1, folder=tmp_path)
    train(DataLoader(TensorDataset(X[:30], Y[:30]), 8), 2, folder=tmp_path)
    assert "The training data differs from the checkpoint's: its length is 30, was 40" in capsys.readouterr().out


def test_a_look_at_the_data_changes_nothing(tmp_path):
    """A run with checkpoints trains on the same numbers as one without."""
    loader = DataLoader(Shifted(0), 8, shuffle=True, num_workers=1)
    assert inputs_of(loader, folder=tmp_path) == inputs_of(loader)
    loader = DataLoader(Shifted(0), 8, shuffle=True)
    assert inputs_of(loader, folder=tmp_path / "other") == inputs_of(loader)


def test_a_checkpoint_without_a_position_continues_by_batches(tmp_path):
    """Older checkpoints have neither a position nor a description of the data."""

    def stopped_state():
        trainer = train(DataLoader(tensors(), 8, shuffle=True), 1, [Stop(0, 2)])
        state = trainer.state_dict()
        return {k: v for k, v in state.items() if k not in ("position", "data")}

    whole = inputs_of(DataLoader(tensors(), 8, shuffle=True))[0]
    record = Record()
    model = nn.Linear(1, 1)
    trainer = Trainer(
        model,
        DataLoader(tensors(), 8, shuffle=True),
        torch.optim.SGD(model.parameters(), lr=1e-6),
        nn.MSELoss(),
        callbacks=[record],
    )
    trainer.load_state_dict(stopped_state())
    trainer.fit(1)
    assert record.epochs[0] == whole[2:]


def test_an_option_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="changed_data: expected 'refuse' or 'next_epoch', got 'yes'"):
        train(DataLoader(tensors(), 8), changed_data="yes")


def test_the_fast_path_is_taken_where_it_can_be():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in dict(), dict(shuffle=True), dict(batch_size=3, drop_last=True), dict(generator=generator()):
            assert isinstance(make_batches(DataLoader(tensors(), **options)), TensorBatches), options
        assert isinstance(make_batches(DataLoader(Numbers())), LoaderBatches)
