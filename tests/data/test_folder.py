from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchshrink.data.folder import read_folders
from torchshrink.errors import DataError

GRAY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
MASK = np.array([[0, 0, 255], [255, 0, 255]], np.uint8)


def pair(write_image, image=GRAY, mask=MASK, name="a", root="", ending="png"):
    write_image(f"{root}images/{name}.{ending}", image)
    return write_image(f"{root}masks/{name}.png", mask)


def whole(samples) -> tuple[np.ndarray, np.ndarray]:
    inputs, truths = zip(*(samples[i] for i in range(len(samples))), strict=True)
    return np.stack(inputs), np.stack(truths)


def read_whole(*roots: Path) -> None:
    for samples in read_folders(*roots):
        whole(samples)


def failure(*roots: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_whole(*roots)
    assert type(caught.value) is DataError
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_gray_image_is_divided_by_255(tmp_path, write_image):
    pair(write_image)
    (samples,) = read_folders(tmp_path)
    assert whole(samples)[0].dtype == np.float32
    np.testing.assert_allclose(whole(samples)[0], [[[[0, 0.2, 0.4], [0.6, 0.8, 1]]]], rtol=1e-6)
    np.testing.assert_array_equal(whole(samples)[1], [[[[0, 0, 1], [1, 0, 1]]]])
    assert whole(samples)[1].dtype == np.uint8
    assert samples.raw == "uint8 / 255"


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF"])
def test_16_bit_image_is_divided_by_65535(tmp_path, write_image, ending):
    pair(write_image, image=np.array([[0, 13107, 65535]], np.uint16), mask=MASK[:1], ending=ending)
    (samples,) = read_folders(tmp_path)
    np.testing.assert_allclose(whole(samples)[0], [[[[0, 0.2, 1]]]], rtol=1e-6)
    assert samples.raw == "uint16 / 65535"


def test_32_bit_tiff_with_16_bit_values(tmp_path, write_image):
    pair(write_image, image=np.array([[0, 13107, 65535]], np.int32), mask=MASK[:1], ending="tif")
    np.testing.assert_allclose(whole(read_folders(tmp_path)[0])[0], [[[[0, 0.2, 1]]]], rtol=1e-6)


def test_32_bit_tiff_beyond_16_bits(tmp_path, write_image):
    pair(write_image, image=np.array([[0, 7, 65536]], np.int32), mask=MASK[:1], ending="tif")
    assert "a.tif holds values from 0 to 65536" in failure(tmp_path)


def test_rgb_image_has_three_channels(tmp_path, write_image):
    image = np.stack([GRAY, GRAY // 51, 255 - GRAY], -1)
    pair(write_image, image=image)
    (samples,) = read_folders(tmp_path)
    assert whole(samples)[0].shape == (1, 3, 2, 3)
    np.testing.assert_allclose(whole(samples)[0][0, 1], np.array([[0, 1, 2], [3, 4, 5]]) / 255, rtol=1e-6)


def test_jpeg_image(tmp_path, write_image):
    pair(write_image, image=np.full((8, 8), 102, np.uint8), mask=np.zeros((8, 8), np.uint8), ending="jpg")
    np.testing.assert_allclose(whole(read_folders(tmp_path)[0])[0], 0.4, atol=2 / 255)


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3), ("1", 1)])
def test_other_modes_become_gray_or_rgb(tmp_path, write_image, mode, channels):
    write_image("images/a.png", MASK, mode)
    write_image("masks/a.png", MASK, "1")
    (samples,) = read_folders(tmp_path)
    np.testing.assert_array_equal(whole(samples)[0][0], np.stack([MASK / 255] * channels))
    np.testing.assert_array_equal(whole(samples)[1][0, 0], MASK // 255)


def test_transparent_image(tmp_path, write_image):
    pair(write_image, image=np.full((2, 3, 4), 254, np.uint8))
    assert "images/a.png has transparent parts" in failure(tmp_path)


def test_samples_come_in_the_order_of_their_names(tmp_path, write_image):
    for value, name in ((30, "c"), (10, "a"), (20, "b")):
        pair(write_image, image=np.full((2, 3), value, np.uint8), name=name)
    assert [round(float(x.max() * 255)) for x in whole(read_folders(tmp_path)[0])[0]] == [10, 20, 30]


@pytest.mark.parametrize("top", [1, 255])
def test_masks_of_0_and_1_or_255(tmp_path, write_image, top):
    pair(write_image, mask=MASK // 255 * np.uint8(top))
    np.testing.assert_array_equal(whole(read_folders(tmp_path)[0])[1][0, 0], MASK // 255)


def test_mask_of_16_bits_in_another_format(tmp_path, write_image):
    write_image("images/a.png", GRAY)
    write_image("masks/a.tif", MASK.astype(np.uint16) * 257)
    np.testing.assert_array_equal(whole(read_folders(tmp_path)[0])[1][0, 0], MASK // 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 1)])
def test_mask_of_one_value(tmp_path, write_image, value, expected):
    pair(write_image, mask=np.full((2, 3), value, np.uint8))
    assert (whole(read_folders(tmp_path)[0])[1] == expected).all()


def test_colour_mask_gives_one_class_per_channel(tmp_path, write_image):
    pair(write_image, mask=np.stack([MASK, 255 - MASK, np.zeros_like(MASK)], -1))
    (samples,) = read_folders(tmp_path)
    np.testing.assert_array_equal(whole(samples)[1][0], [MASK // 255, 1 - MASK // 255, np.zeros((2, 3))])


def test_gray_masks_saved_as_rgb_give_one_class(tmp_path, write_image):
    pair(write_image, mask=np.stack([MASK] * 3, -1))
    np.testing.assert_array_equal(whole(read_folders(tmp_path)[0])[1], [[MASK // 255]])


def test_one_colour_mask_decides_for_all_folders(tmp_path, write_image):
    pair(write_image, mask=np.stack([MASK] * 3, -1), root="train/")
    pair(write_image, mask=np.stack([MASK, MASK, 255 - MASK], -1), root="test/")
    train, test = read_folders(tmp_path / "train", tmp_path / "test")
    assert whole(train)[1].shape == whole(test)[1].shape == (1, 3, 2, 3)


def test_hidden_and_other_files_are_ignored(tmp_path, write_image):
    pair(write_image)
    (tmp_path / "images" / "._a.png").write_bytes(b"junk")
    (tmp_path / "masks" / "Thumbs.db").write_bytes(b"junk")
    assert len(read_folders(tmp_path)[0]) == 1


@pytest.mark.parametrize("name", ["images", "masks"])
def test_missing_folder(tmp_path, name):
    (tmp_path / ("masks" if name == "images" else "images")).mkdir()
    assert f"{tmp_path / name} is missing" in failure(tmp_path)


def test_empty_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    assert f"{tmp_path / 'images'} holds no images" in failure(tmp_path)


def test_image_without_mask_is_reported_before_any_file_is_read(tmp_path, write_image):
    pair(write_image)
    (tmp_path / "images" / "broken.png").write_bytes(b"junk")
    assert f"{tmp_path}/images/broken.png has no mask: add {tmp_path}/masks/broken.png" in failure(tmp_path)


def test_mask_without_image(tmp_path, write_image):
    pair(write_image)
    write_image("masks/b.png", MASK)
    assert f"{tmp_path}/masks/b.png has no image" in failure(tmp_path)


def test_two_images_of_one_name(tmp_path, write_image):
    pair(write_image)
    write_image("images/a.tif", GRAY)
    assert "images/a.png and a.tif share the name 'a'" in failure(tmp_path)


def test_mask_of_another_size(tmp_path, write_image):
    pair(write_image, mask=MASK.T.copy())
    message = failure(tmp_path)
    assert "masks/a.png measures 2x3" in message
    assert "images/a.png 3x2" in message


def test_images_of_different_sizes_name_two(tmp_path, write_image):
    pair(write_image)
    pair(write_image, image=GRAY[:, :2], mask=MASK[:, :2], name="b")
    message = failure(tmp_path)
    assert "images/a.png measures 3x2" in message
    assert "images/b.png 2x2" in message


def test_sizes_are_compared_across_folders(tmp_path, write_image):
    pair(write_image, root="train/")
    pair(write_image, image=GRAY[:, :2], mask=MASK[:, :2], root="test/")
    message = failure(tmp_path / "train", tmp_path / "test")
    assert "train/images/a.png" in message
    assert "test/images/a.png" in message


@pytest.mark.parametrize("other", [np.stack([GRAY] * 3, -1), GRAY.astype(np.uint16)])
def test_mixed_image_modes(tmp_path, write_image, other):
    pair(write_image)
    pair(write_image, image=other, name="b")
    message = failure(tmp_path)
    assert "images/a.png is 8-bit gray but" in message
    assert "images/b.png is " in message


def test_mixed_mask_modes(tmp_path, write_image):
    pair(write_image)
    pair(write_image, mask=np.stack([MASK] * 3, -1), name="b")
    assert "masks/b.png is 8-bit RGB: save all masks in one mode" in failure(tmp_path)


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ([[0, 1, 3], [0, 0, 0]], "0, 1, 3,"),
        ([[0, 0, 128], [0, 0, 0]], "0, 128,"),
        ([[1, 1, 255], [1, 1, 1]], "1, 255,"),
        ([[0, 1, 2], [3, 4, 6]], "0, 1, 2, 3, 4, ...,"),
    ],
)
def test_mask_that_is_not_binary(tmp_path, write_image, mask, shown):
    path = pair(write_image, mask=np.array(mask, np.uint8))
    assert f"{path} holds the values {shown} expected 0 and one of 1, 255, 65535" in failure(tmp_path)


def test_jpeg_mask_advice(tmp_path, write_image):
    checker = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    write_image("images/a.png", checker)
    write_image("masks/a.jpg", checker)
    message = failure(tmp_path)
    assert "masks/a.jpg" in message
    assert "save it as PNG" in message


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_unreadable_image(tmp_path, write_image, content):
    pair(write_image)
    (tmp_path / "images" / "a.png").write_bytes(content)
    assert "images/a.png cannot be read (it is empty or no PNG, TIFF or JPEG)" in failure(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_image(tmp_path, write_image, ending):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    pair(write_image, image=noise, mask=np.zeros((64, 64), np.uint8), ending=ending)
    path = tmp_path / "images" / f"a.{ending}"
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"images/a.{ending} cannot be read" in failure(tmp_path)


def test_unsupported_mode(tmp_path, write_image):
    pair(write_image)
    write_image("images/a.png", GRAY, "P")
    assert "images/a.png has Pillow mode P" in failure(tmp_path)


def test_tiff_of_several_pages(tmp_path, write_image):
    pair(write_image, ending="tif")
    pages = [Image.fromarray(GRAY) for _ in range(2)]
    pages[0].save(tmp_path / "images" / "a.tif", save_all=True, append_images=pages[1:])
    assert "images/a.tif has several pages" in failure(tmp_path)
