import pickle

import pytest
import torch

from torchshrink.data import flips_rotations_noise
from torchshrink.errors import DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetries(image: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(image, k, (-2, -1)) for k in range(4)]
    return turned + [view.flip(-1) for view in turned]


def test_square_images_reach_all_eight_symmetries_and_nothing_else():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    x, _ = flips_rotations_noise(2, noise=0, square=True, brightness=0)(
        image.expand(200, 1, 4, 4), image.expand(200, 1, 4, 4), generator()
    )
    found = {tuple(sample.flatten().tolist()) for sample in x}
    assert found == {tuple(view.flatten().tolist()) for view in symmetries(image)}


def test_rectangles_keep_their_size():
    image = torch.arange(8.0).reshape(1, 1, 2, 4)
    x, _ = flips_rotations_noise(2, noise=0, square=False, brightness=0)(
        image.expand(100, 1, 2, 4), image.expand(100, 1, 2, 4), generator()
    )
    found = {tuple(sample.flatten().tolist()) for sample in x}
    views = [image, image.flip(-1), image.flip(-2), torch.rot90(image, 2, (-2, -1))]
    assert found == {tuple(view.flatten().tolist()) for view in views}


@pytest.mark.parametrize("square", [True, False])
def test_truth_moves_with_its_input(square):
    x = torch.rand(64, 1, 8, 8, generator=generator(1)) > 0.5
    inputs, truth = flips_rotations_noise(2, noise=0, square=square, brightness=0)(
        x.float(), x.to(torch.uint8), generator()
    )
    assert truth.dtype == torch.uint8
    assert torch.equal(inputs, truth.float())


def test_truth_stays_binary_and_aligned_under_noise():
    x = torch.rand(64, 1, 8, 8, generator=generator(1)) > 0.5
    augment = flips_rotations_noise(2, noise=0.01, brightness=0.1)
    inputs, truth = augment(x.float(), x.to(torch.uint8), generator())
    assert set(truth.unique().tolist()) == {0, 1}
    # 1 becomes at least 0.9 - 0.1 and 0 at most 0.1, and noise of 0.01 does not bridge the gap.
    assert torch.equal(inputs > 0.45, truth > 0)


def test_noise_has_its_standard_deviation():
    x = torch.zeros(32, 1, 64, 64)
    inputs, _ = flips_rotations_noise(2, noise=0.05, brightness=0)(x, x, generator())
    assert inputs.std().item() == pytest.approx(0.05, rel=0.02)


def test_brightness_and_contrast_stay_in_their_limits():
    zeros, ones = torch.zeros(500, 1, 2, 2), torch.ones(500, 1, 2, 2)
    augment = flips_rotations_noise(2, noise=0, brightness=0.1)
    offset = augment(zeros, zeros, generator())[0]
    factor = augment(ones, ones, generator())[0] - offset
    assert offset.abs().max() <= 0.1
    assert 0.9 <= factor.min() < 0.92
    assert 1.08 < factor.max() <= 1.1 + 1e-6
    assert (offset.flatten(1).std(1) < 1e-6).all()  # one choice for the whole sample
    assert offset[:, 0, 0, 0].unique().numel() > 400


def test_signals_keep_their_direction():
    x = torch.linspace(1, 2, 32).expand(50, 2, 32)
    y = (x > 1.5).to(torch.uint8)
    inputs, truth = flips_rotations_noise(1, noise=0)(x, y, generator())
    assert torch.equal(truth, y)
    ratio = inputs / x
    assert torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio))
    assert 0.9 <= ratio.min() < 0.95
    assert 1.05 < ratio.max() <= 1.1 + 1e-6


@pytest.mark.parametrize("dims", [1, 2])
def test_only_the_given_generator_decides(dims):
    x = torch.rand(8, 1, *[8] * dims, generator=generator(1))
    augment = flips_rotations_noise(dims)
    before = torch.get_rng_state()
    first, again, other = (augment(x, x > 0.5, generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_batch_is_not_changed_in_place():
    x = torch.rand(8, 1, 8, 8, generator=generator(1))
    copy = x.clone()
    flips_rotations_noise(2)(x, x > 0.5, generator())
    assert torch.equal(x, copy)


def test_augmentation_can_be_sent_to_a_worker_process():
    x = torch.rand(4, 1, 8, 8, generator=generator(1))
    augment = flips_rotations_noise(2)
    copied = pickle.loads(pickle.dumps(augment))
    assert torch.equal(augment(x, x, generator())[0], copied(x, x, generator())[0])


@pytest.mark.parametrize("settings", [{"dims": 3}, {"dims": 2, "noise": -1}, {"dims": 1, "brightness": -0.1}])
def test_bad_settings(settings):
    with pytest.raises(DataError, match=f"dims={settings['dims']}"):
        flips_rotations_noise(**settings)


def test_signals_of_a_class_are_moved_and_their_ends_held():
    """Up to a tenth of 20 samples; a signal whose truth is a number or has positions stays where it is."""
    ramp = torch.arange(20.0).expand(200, 1, 20)
    augment = flips_rotations_noise(1, noise=0, brightness=0)
    moved, truth = augment(ramp, torch.arange(200), generator())
    moves = {int(signal[0, 10]) - 10 for signal in moved}
    assert moves == {-2, -1, 0, 1, 2}
    for signal in moved:
        assert torch.equal(signal[0], (torch.arange(20.0) + signal[0, 10] - 10).clamp(0, 19))
    assert torch.equal(truth, torch.arange(200))
    for kept in (torch.rand(200, 1), torch.ones(200, 1, 20, dtype=torch.uint8), torch.ones(200, 20, dtype=torch.int64)):
        assert torch.equal(augment(ramp, kept, generator())[0], ramp)
