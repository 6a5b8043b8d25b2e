"""An image file is the same tensor in training and behind an endpoint, in whatever way it is written or sent."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from mlkit.model.image import ImageModel
from mlkit.model.saving import save_model
from mlkit.sagemaker.endpoint.codecs import RequestError
from mlkit.sagemaker.endpoint.handlers import Handlers
from mlkit.training.data import Images

MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK", "YCbCr")
FORMATS = {
    "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK"),
    "PPM": ("1", "L", "RGB"),
}
SUFFIXES = {name: f".{name.lower()}" for name in FORMATS}


def picture(mode, size, seed):
    """Return an image of Pillow in this mode, with random pixels."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(2**16, size=size[::-1]).astype(np.uint16))
    rgba = Image.fromarray(rng.integers(256, size=(*size[::-1], 4), dtype=np.uint8), "RGBA")
    return rgba if mode == "RGBA" else rgba.convert("L").convert(mode) if mode == "1" else rgba.convert(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of two classes with an image in each format, mode and orientation, of two sizes."""
    root = tmp_path_factory.mktemp("images")
    i = 0
    for name, modes in FORMATS.items():
        for mode in modes:
            for orientation in (1, 6) if name in ("PNG", "JPEG", "WEBP", "TIFF") else (1,):
                i += 1
                options = {}
                if orientation != 1:
                    exif = Image.Exif()
                    exif[0x0112] = orientation
                    options["exif"] = exif
                size = (12, 7) if i % 4 == 0 else (9, 9)
                path = root / "ab"[i % 2] / f"{i:03}-{mode.replace(';', '')}-{orientation}{SUFFIXES[name]}"
                path.parent.mkdir(exist_ok=True)
                picture(mode, size, i).save(path, name, **options)
    return root


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("size", ((9, 9), (16, 5)))
def test_every_file_is_the_same_tensor_in_a_request(folder, tmp_path, channels, size):
    images = Images.fit(folder, size=size, channels=channels)
    x = images.dataset(folder).tensors[0]
    on_demand = images.dataset(folder, max_bytes=0)
    save_model(ImageModel(channels, 2, width=4), tmp_path, sample=x[:1], rows=images)
    handlers = Handlers()
    handlers.start(tmp_path)
    files = sorted(folder.rglob("*.*"))
    assert len(files) == len(x) > 30
    for i, path in enumerate(files):
        body = path.read_bytes()
        assert torch.equal(on_demand[i][0], x[i]), path
        for content_type in ("image/png", "image/jpeg", "image/x-anything", "application/x-image"):
            assert torch.equal(handlers.receive(body, content_type).read()[0], x[i]), (path, content_type)
        assert torch.equal(handlers.receive(body, "application/octet-stream").read()[0], x[i]), path
    assert len(torch.unique(x, dim=0)) == len(x)


@pytest.fixture(scope="module")
def handlers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(ImageModel(1, 3, width=4, depth=1), folder, rows=Images((4, 5), 1, ["x", "y", "z"]))
    handlers = Handlers()
    handlers.start(folder)
    return handlers


def test_arrays_and_lists_are_images_too(handlers):
    x = torch.randint(256, (2, 1, 4, 5), dtype=torch.uint8)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, x.numpy())
    np.savez(npz, images=x.numpy())
    for body, content_type in (
        (json.dumps(x.tolist()).encode(), "application/json"),
        (json.dumps({"instances": x.tolist()}).encode(), "application/json"),
        (b"".join(json.dumps(image).encode() + b"\n" for image in x.tolist()), "application/jsonlines"),
        (npy.getvalue(), "application/x-npy"),
        (npz.getvalue(), "application/x-npz"),
        (save({"x": x}), "application/x-safetensors"),
    ):
        assert torch.equal(handlers.receive(body, content_type).read(), x), content_type


def test_the_answer_has_the_names_of_the_classes(handlers):
    body = io.BytesIO()
    picture("L", (5, 4), 0).save(body, "PNG")
    (answer,) = json.loads(handlers.respond(body.getvalue(), "image/png").body)
    assert answer["probabilities"].keys() == {"x", "y", "z"}
    assert answer["probability"] == answer["probabilities"][answer["label"]] == max(answer["probabilities"].values())
    text = handlers.respond(body.getvalue(), "image/png", accept="text/csv").body.decode()
    assert text.split(",")[0] == answer["label"]


def large_image():
    body = io.BytesIO()
    Image.new("1", (8193, 8192)).save(body, "PNG")
    return body.getvalue()


def float_array():
    body = io.BytesIO()
    np.save(body, np.ones((1, 1, 4, 5), np.float32))
    return body.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    (
        (b"<html>", "image/png", 400, "not an image in a known format"),
        (b"", "application/octet-stream", 400, "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/eps", 400, "not an image in a known format"),
        (large_image(), "image/png", 413, "expected at most 67,108,864"),
        (float_array(), "application/x-npy", 422, "expected an image, or whole numbers from 0 to 255, got float32"),
        (b"[[[[1]]]]", "application/json", 422, "expected shape (images, 1, 4, 5), got (1, 1, 1, 1)"),
        (b"[[[[300, 0, 0, 0, 0]], [[0]]]]", "application/json", 422, "rows of one length"),
        (
            b"[[[300, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]]",
            "application/json",
            422,
            "0 to 300",
        ),
        (b'["cat.png"]', "application/json", 422, "got"),
        (b"[", "application/json", 400, "the body is not application/json"),
        (b'{"a": 1, "b": 2}', "application/json", 422, "got dict"),
        (b"1,2", "text/csv", 422, "got float32"),
        (b"x", "application/x-unknown", 415, "cannot read application/x-unknown"),
    ),
)
def test_what_is_not_an_image_is_the_mistake_of_the_client(handlers, body, content_type, status, message):
    with pytest.raises(RequestError) as error:
        handlers.receive(body, content_type).read()
    assert error.value.status == status
    assert message in str(error.value)
