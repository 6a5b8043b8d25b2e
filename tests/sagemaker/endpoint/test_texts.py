"""A text model answers texts by the default handlers, with the tokenizer in its folder."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from mlkit.model import create_model, save_model
from mlkit.sagemaker.endpoint.codecs import RequestError
from mlkit.sagemaker.endpoint.handlers import Handlers

CONFIG = dict(vocab_size=5, n_positions=8, n_embd=4, n_layer=1, n_head=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2 of Hugging Face that was saved without a sample, and its tokenizer."""
    from transformers import GPT2Config, GPT2Model

    folder = save_model(GPT2Model(GPT2Config(**CONFIG)), tmp_path_factory.mktemp("model"))
    tokenizer = Tokenizer(models.WordLevel({"a": 1, "text": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    "body, content_type, texts",
    [
        ('{"inputs": ["a text", "a"]}', "application/json", 2),
        ('{"inputs": "a text"}', "application/json", 1),
        ('["a", "text a"]', "application/json", 2),
        ('"a"', "application/json", 1),
        ("a text", "text/plain", 1),
        ('"a"\n"text"\n', "application/jsonlines", 2),
    ],
)
def test_texts_are_answered(folder, body, content_type, texts):
    handlers = Handlers()
    handlers.start(folder)
    answer = json.loads(handlers.respond(body.encode(), content_type).body)
    hidden = torch.tensor(answer["last_hidden_state"])
    assert hidden.shape[0] == texts and hidden.shape[2] == 4
    assert "past_key_values" not in answer


def test_a_text_that_is_too_long_is_the_client_s_mistake(folder):
    handlers = Handlers()
    handlers.start(folder)
    with pytest.raises(RequestError, match="the model cannot take") as error:
        handlers.respond(json.dumps({"inputs": "a " * 9}).encode())
    assert error.value.status == 422


def test_without_a_tokenizer_there_is_a_hint(folder, tmp_path):
    handlers = Handlers(model=create_model("torch.nn:Linear", in_features=1, out_features=1))
    with pytest.raises(RequestError, match="a text is read if its tokenizer is in the folder of the model") as error:
        handlers.respond(b'{"inputs": ["a", "b"]}')
    assert error.value.status == 422
