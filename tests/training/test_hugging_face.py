"""Models of Hugging Face as they are: their batches, their own losses, their configs; small, with random weights."""

import json
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from mlkit.model import load_model, save_model, summary
from mlkit.model.build import describe_model
from mlkit.model.inputs import call_model, signature, zeros_like_signature
from mlkit.training import ModelLoss, Trainer, train_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

transformers.utils.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:fan_in_fan_out")

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer that splits at spaces, made without a download."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]")


def texts(n=40):
    """Return sentences of 4 to 12 words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (n,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(0, 40, (k,), generator=generator).tolist()) for k in lengths]


def samples(tokenizer, labels):
    """Return what a tokenizer makes of each text, with the labels that a function makes of its tokens."""
    rows = [tokenizer(text, return_token_type_ids=False) for text in texts()]
    return [dict(row) | {"labels": labels(row["input_ids"])} for row in rows]


BERT = dict(
    vocab_size=42,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)


def bert(kind, **options):
    return kind(transformers.BertConfig(**BERT, **options))


def gpt2():
    config = dict(vocab_size=42, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))


def lora():
    config = peft.LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value"])
    return peft.get_peft_model(bert(transformers.BertForSequenceClassification, num_labels=3), config)


def lora_of_gpt2():
    return peft.get_peft_model(gpt2(), peft.LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=True))


def sentence_class(ids):
    return sum(ids) % 3


def token_classes(ids):
    return [-100 if i % 3 == 0 else token % 5 for i, token in enumerate(ids)]


class Case:
    """A model, what its collator makes of its samples, and over how many targets its loss is a mean."""

    def __init__(self, make, labels, collator, count):
        self.make = make
        self.labels = labels
        self.collator = collator
        self.count = count

    def model(self):
        torch.manual_seed(0)
        return self.make()

    def loader(self, tokenizer, batch_size=8):
        collate = self.collator(tokenizer)
        return DataLoader(samples(tokenizer, self.labels), batch_size, collate_fn=collate)


def pad(tokenizer):
    return transformers.DataCollatorWithPadding(tokenizer)


def pad_labels(tokenizer):
    return transformers.DataCollatorForTokenClassification(tokenizer)


def language_model(tokenizer):
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return lambda rows: collate([{k: v for k, v in row.items() if k != "labels"} for row in rows])  # it makes its own


def label_count(labels):
    return (labels != -100).sum()


def next_label_count(labels):
    return (labels[:, 1:] != -100).sum()


sequence_classifier = partial(bert, transformers.BertForSequenceClassification)
CASES = {
    "classifier": Case(partial(sequence_classifier, num_labels=3), sentence_class, pad, len),
    "regression": Case(partial(sequence_classifier, num_labels=1), lambda ids: ids[0] / 40, pad, len),
    "several labels": Case(
        partial(sequence_classifier, num_labels=3, problem_type="multi_label_classification"),
        lambda ids: [float(token in ids) for token in (3, 4, 5)],
        pad,
        torch.numel,
    ),
    "tokens": Case(
        partial(bert, transformers.BertForTokenClassification, num_labels=5), token_classes, pad_labels, label_count
    ),
    "masked tokens": Case(partial(bert, transformers.BertForMaskedLM), token_classes, pad_labels, label_count),
    "GPT-2": Case(gpt2, list, language_model, next_label_count),
    "LoRA": Case(lora, sentence_class, pad, len),
    "LoRA of GPT-2": Case(lora_of_gpt2, list, language_model, next_label_count),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def train_plainly(model, loader, epochs, learning_rate):
    """Train as a hand-written loop does."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    return model


def assert_equal_weights(model, other):
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(a, b), name


def test_one_call_trains_as_a_plain_loop_to_the_last_bit(case, tokenizer):
    expected = case.model()
    torch.manual_seed(1)
    train_plainly(expected, case.loader(tokenizer), 2, 1e-2)
    model = case.model()
    torch.manual_seed(1)
    history = train_model(model, case.loader(tokenizer), 2, 1e-2, verbose=False)
    assert_equal_weights(model, expected)
    assert history["train_loss"][1] < history["train_loss"][0]


def test_a_loss_counts_by_what_it_is_a_mean_over(case, tokenizer):
    """The losses of batches, weighed by their counts, are the loss of all samples in one batch."""
    model = case.model().eval()
    loss_fn = ModelLoss()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = [(loss_fn(model(**batch), batch["labels"]), batch["labels"]) for batch in case.loader(tokenizer, 7)]
        [whole] = case.loader(tokenizer, 40)
        expected = model(**whole).loss
    losses, counts = zip(*(pair for pair, _ in pairs))
    assert [int(count) for count in counts] == [int(case.count(labels)) for _, labels in pairs]
    mean = sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_the_count_is_found_in_each_precision(case, tokenizer, precision):
    [batch] = case.loader(tokenizer, 40)
    if batch["labels"].is_floating_point():
        batch["labels"] = batch["labels"].to(precision)
    output = case.model().eval().to(precision)(**batch)
    assert int(ModelLoss()(output, batch["labels"])[1]) == int(case.count(batch["labels"]))


def test_the_count_is_found_under_autocast(case, tokenizer):
    [batch] = case.loader(tokenizer, 40)
    with torch.autocast("cpu", torch.bfloat16):
        output = case.model().eval()(**batch)
        assert int(ModelLoss()(output, batch["labels"])[1]) == int(case.count(batch["labels"]))


def test_validation_measures_logits(tokenizer):
    case = CASES["classifier"]
    seen = []

    def largest(prediction, target):
        seen.append((prediction, target))
        return prediction.max()

    def of_the_output(output, target):
        return output.logits.argmax(1).eq(target).float().mean()

    metrics = dict(largest=largest, share=of_the_output, torchmetrics=MulticlassAccuracy(3, average="micro"))
    loader = case.loader(tokenizer)
    history = train_model(case.model(), loader, 1, 1e-3, valid_loader=loader, metrics=metrics, verbose=False)
    prediction, target = seen[-1]
    assert prediction.shape == (8, 3) and target.shape == (8,)
    by_default = train_model(case.model(), loader, 1, 1e-3, valid_loader=loader, verbose=False)
    assert 0 <= history["valid_share"][0] <= 1
    assert history["valid_share"][0] == pytest.approx(history["valid_torchmetrics"][0])
    assert "valid_accuracy" in by_default.epochs[0] and "valid_loss" in by_default.epochs[0]


def test_a_metric_of_a_language_model_counts_by_the_next_labels(tokenizer):
    case = CASES["GPT-2"]

    def next_token_accuracy(logits, labels):
        counts = labels[:, 1:] != -100
        return logits[:, :-1].argmax(-1).eq(labels[:, 1:])[counts].float().mean()

    model = case.model()
    metrics = {"next": next_token_accuracy}
    loader = case.loader(tokenizer, 7)
    history = train_model(model, loader, 3, 1e-2, valid_loader=loader, metrics=metrics, verbose=False)
    [whole] = case.loader(tokenizer, 40)
    with torch.no_grad():
        expected = next_token_accuracy(model.eval()(**whole).logits, whole["labels"]).item()
    assert expected > 0 and history["valid_next"][2] == pytest.approx(expected, abs=1e-6)


class Around(nn.Module):
    """Passes all that it gets on to the model in it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch)


def test_a_module_around_a_model_trains_by_its_loss(case, tokenizer):
    expected = case.model()
    torch.manual_seed(1)
    train_plainly(expected, case.loader(tokenizer), 1, 1e-2)
    model = Around(case.model())
    torch.manual_seed(1)
    train_model(model, case.loader(tokenizer), 1, 1e-2, verbose=False)
    assert_equal_weights(model.model, expected)


class Contrast(nn.Module):
    """Compares each image with each text of a batch, as CLIP does, and returns its own loss."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, image, text):
        logits = self.linear(image) @ self.linear(text).T
        return {"loss": F.cross_entropy(logits, torch.arange(len(logits))), "logits": logits}


def test_an_own_loss_of_unknown_count_is_refused_where_batches_are_combined():
    batches = [dict(image=torch.randn(n, 4), text=torch.randn(n, 4)) for n in (4, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_model(Contrast(), batches, 1, 1e-3, verbose=False)
    with pytest.raises(ValueError, match="the number of targets that the model's own loss is a mean over is not known"):
        train_model(Contrast(), batches, 1, 1e-3, accumulate=2, verbose=False)


def test_an_own_loss_whose_count_the_user_tells_is_combined():
    model, expected = Contrast(), Contrast()
    expected.load_state_dict(model.state_dict())
    batches = [dict(image=torch.randn(n, 4), text=torch.randn(n, 4)) for n in (4, 3)]
    train_model(
        model,
        batches,
        1,
        1e-2,
        accumulate=2,
        loss_fn=ModelLoss(count=lambda output, target: len(output["logits"])),
        optimizer=torch.optim.SGD,
        verbose=False,
    )
    optimizer = torch.optim.SGD(expected.parameters(), 1e-2)
    for batch in batches:
        (expected(**batch)["loss"] * len(batch["image"]) / 7).backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs)


def test_default_accuracy_is_that_of_the_logits(tokenizer):
    case = CASES["classifier"]
    model = case.model()
    loader = case.loader(tokenizer)
    history = train_model(model, loader, 1, 1e-3, valid_loader=loader, verbose=False)
    model.eval()
    with torch.no_grad():
        correct = [model(**batch).logits.argmax(1).eq(batch["labels"]) for batch in loader]
    assert history["valid_accuracy"][0] == pytest.approx(torch.cat(correct).float().mean().item())


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.CrossEntropyLoss(),
        F.cross_entropy,
        lambda logits, target: F.cross_entropy(logits, target),
        lambda output, target: F.cross_entropy(output.logits, target),
    ],
)
def test_a_loss_fn_gets_logits_and_labels_that_the_model_did_not_get(tokenizer, loss_fn):
    case = CASES["classifier"]
    expected = case.model()
    torch.manual_seed(1)
    train_plainly(expected, case.loader(tokenizer), 1, 1e-3)
    model = case.model()
    had_labels = []
    handle = model.register_forward_pre_hook(
        lambda m, args, kwargs: had_labels.append("labels" in kwargs), with_kwargs=True
    )
    torch.manual_seed(1)
    train_model(model, case.loader(tokenizer), 1, 1e-3, loss_fn=loss_fn, verbose=False)
    handle.remove()
    assert not any(had_labels)
    assert_equal_weights(model, expected)


def test_tuples_of_tensors_train_a_classifier_by_cross_entropy(tokenizer):
    case = CASES["classifier"]
    [batch] = case.loader(tokenizer, 40)
    data = TensorDataset(batch["input_ids"], batch["attention_mask"], batch["labels"])
    loader = DataLoader(data, 8)
    history = train_model(case.model(), loader, 2, 1e-3, valid_loader=loader, verbose=False)
    assert history["train_loss"][1] < history["train_loss"][0] and "valid_accuracy" in history.epochs[0]


def test_a_tuple_as_output_has_its_loss_first(tokenizer):
    case = CASES["classifier"]
    expected = case.model()
    torch.manual_seed(1)
    train_plainly(expected, case.loader(tokenizer), 1, 1e-3)
    model = case.model()
    model.config.return_dict = False
    torch.manual_seed(1)
    history = train_model(model, case.loader(tokenizer), 1, 1e-3, verbose=False)
    assert_equal_weights(model, expected)
    assert history["train_loss"][0] > 0


def test_a_model_whose_targets_have_other_names(tokenizer):
    """A batch without labels goes to the model, which finds its targets by their names."""
    torch.manual_seed(0)
    model = bert(transformers.BertForQuestionAnswering)
    rows = [row | dict(start_positions=0, end_positions=2) for row in samples(tokenizer, sentence_class)]
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in rows]
    loader = DataLoader(rows, 8, collate_fn=pad(tokenizer))
    history = train_model(model, loader, 3, 1e-2, valid_loader=loader, verbose=False)
    assert history["valid_loss"][2] < history["valid_loss"][0]


def test_images(tokenizer):
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    data = [dict(pixel_values=torch.randn(3, 8, 8), labels=i % 3) for i in range(24)]
    loader = DataLoader(data, 8)
    history = train_model(model, loader, 1, 1e-2, valid_loader=loader, verbose=False)
    assert "valid_accuracy" in history.epochs[0]


def test_a_compiled_model_trains_like_the_model(tokenizer):
    case = CASES["classifier"]
    expected = case.model()
    torch.manual_seed(1)
    train_plainly(expected, case.loader(tokenizer), 1, 1e-3)
    model = case.model()
    torch.manual_seed(1)
    train_model(torch.compile(model, backend="eager"), case.loader(tokenizer), 1, 1e-3, verbose=False)
    assert_equal_weights(model, expected)


def test_a_run_continues_to_the_same_weights(case, tokenizer, tmp_path):
    def trainer(folder):
        model = case.model()
        torch.manual_seed(1)
        parameters = [p for p in model.parameters() if p.requires_grad]
        loader = case.loader(tokenizer)
        return Trainer(model, loader, torch.optim.Adam(parameters, 1e-3), checkpoints=tmp_path / folder)

    whole = trainer("whole")
    whole.fit(2)
    trainer("parts").fit(1)
    continued = trainer("parts")
    continued.fit(2)
    assert_equal_weights(continued.model, whole.model)


def test_save_and_load(case, tokenizer, tmp_path, monkeypatch):
    """Nothing is downloaded, and nothing unpickled."""
    model = case.model()
    train_model(model, case.loader(tokenizer), 1, 1e-2, verbose=False)
    [batch] = case.loader(tokenizer, 40)
    model.eval()
    save_model(model, tmp_path, sample=batch)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a connection"))
    monkeypatch.setattr("pickle.load", lambda *args: pytest.fail("a pickle"))
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert_equal_weights(loaded, model)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in loaded.named_parameters() if p.requires_grad] == trainable
    sample = json.loads((tmp_path / "model.json").read_text())["sample"]
    assert sample["input_ids"] == {"shape": list(batch["input_ids"].shape), "dtype": "int64"}


def test_tied_weights_stay_tied(tmp_path):
    loaded = load_model(save_model(gpt2(), tmp_path))
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert json.loads((tmp_path / "model.json").read_text())["shared"] == {"lm_head.weight": "transformer.wte.weight"}


def test_the_description_follows_the_config(tmp_path):
    model = bert(transformers.BertForSequenceClassification, num_labels=4)
    model.resize_token_embeddings(50)
    description = describe_model(model)
    assert description["model"].endswith(":BertForSequenceClassification")
    assert description["arguments"]["config"]["values"]["vocab_size"] == 50
    loaded = load_model(save_model(model, tmp_path))
    assert loaded.config.num_labels == 4 and loaded.get_input_embeddings().num_embeddings == 50
    assert describe_model(loaded) == description


def test_two_adapters_cannot_be_described():
    model = lora()
    model.add_adapter("second", peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query"]))
    with pytest.raises(TypeError, match="has the adapters default, second: only a model with one"):
        describe_model(model)


def test_summary(case, tokenizer):
    [batch] = case.loader(tokenizer, 40)
    table = summary(case.model(), batch)
    kinds = {row[1] for row in table.rows}
    assert "Embedding" in kinds and "LayerNorm" in kinds
    assert f"{sum(p.numel() for p in case.model().parameters()):,} parameters" in table.note


def test_the_signature_of_what_a_tokenizer_returns(tokenizer):
    encoding = tokenizer(texts(2), padding=True, return_tensors="pt", return_token_type_ids=False)
    assert isinstance(encoding, transformers.BatchEncoding)
    shape = list(encoding["input_ids"].shape)
    assert signature(encoding) == {name: {"shape": shape, "dtype": "int64"} for name in ("input_ids", "attention_mask")}
    zeros = zeros_like_signature(signature(encoding))
    model = bert(transformers.BertForSequenceClassification, num_labels=3)
    assert call_model(model, zeros).logits.shape == call_model(model, encoding).logits.shape == (2, 3)
