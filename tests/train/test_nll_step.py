from __future__ import annotations

import math
import random

import pytest
import torch
from tiny_training import V, gradient_of, sgd, tiny_config, tiny_decoder, weights_of

from aha.errors import DataError, InvariantError
from aha.model.decoder import Decoder, build_decoder
from aha.train.batch import Document, collate_packed
from aha.train.nll_step import compute_nll_loss, mtp_step, nll_step


def documents(seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    result = []
    for length in (6, 3, 9, 2, 5):
        mask = [rng.choice([0.0, 1.0, 1.0]) for _ in range(length - 1)] + [1.0]
        result.append(([rng.randrange(V) for _ in range(length)], mask))
    return result


def test_loss_equals_the_documents_one_by_one() -> None:
    decoder = tiny_decoder(0)
    total = weight = 0.0
    for ids, mask in documents():
        with torch.no_grad():
            table = decoder.logits(decoder(torch.tensor([ids])))[0].log_softmax(-1)
        for t in range(1, len(ids)):
            total -= mask[t] * table[t - 1, ids[t]].item()
            weight += mask[t]
    metrics = nll_step(decoder, sgd(decoder), collate_packed(documents(), width=12), lr=0.0, max_grad_norm=1.0)
    assert metrics["loss"] == pytest.approx(total / weight, rel=1e-6)
    assert metrics["tokens"] == weight


def test_gradient_is_the_same_for_any_packing() -> None:
    results = []
    for width in (8, 12, 24, 40):
        decoder = tiny_decoder(0)
        batches = collate_packed(documents(), width=width)
        metrics = nll_step(decoder, sgd(decoder), batches, lr=0.0, max_grad_norm=math.inf)
        results.append((metrics["loss"], gradient_of(decoder)))
    alone = [b for d in documents() for b in collate_packed([d], width=len(d[0]) - 1)]
    decoder = tiny_decoder(0)
    unpacked = nll_step(decoder, sgd(decoder), alone, lr=0.0, max_grad_norm=math.inf)["loss"]
    for loss, gradient in results:
        assert loss == pytest.approx(unpacked, rel=1e-6)
        torch.testing.assert_close(gradient, gradient_of(decoder), rtol=1e-5, atol=1e-9)


def test_gradient_by_finite_differences() -> None:
    decoder = tiny_decoder(0)
    (batch,) = collate_packed(documents(), width=108)

    def loss() -> torch.Tensor:
        return compute_nll_loss(decoder, batch, total_weight=17.0)[0]

    loss().backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for name, parameter in decoder.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-5)
            up = loss().item()
            parameter.sub_(direction, alpha=2e-5)
            down = loss().item()
            parameter.add_(direction, alpha=1e-5)
        assert parameter.grad is not None
        want = (parameter.grad * direction).sum().item()
        assert (up - down) / 2e-5 == pytest.approx(want, rel=1e-5, abs=1e-8), name


def test_masked_tokens_do_not_matter() -> None:
    ids, mask = [1, 2, 3, 4, 5], [0, 0, 0, 1, 1]
    losses = []
    for weights in (mask, [0, 0, 1, 1, 1]):
        decoder = tiny_decoder(0)
        batches = collate_packed([(ids, weights)], width=4)
        losses.append(nll_step(decoder, sgd(decoder), batches, lr=0.0, max_grad_norm=1.0)["loss"])
    table = tiny_decoder(0)
    with torch.no_grad():
        logp = table.logits(table(torch.tensor([ids])))[0].log_softmax(-1)
    assert losses[0] == pytest.approx(-(logp[2, 4] + logp[3, 5]).item() / 2)
    assert losses[0] != losses[1]


def test_learns_a_sequence_by_heart() -> None:
    decoder = tiny_decoder(0, scale=0.1)
    optimizer = torch.optim.AdamW(decoder.parameters())
    batches = collate_packed([([1, 7, 3, 9, 2], [1] * 5)], width=4)
    losses = [nll_step(decoder, optimizer, batches, lr=0.02, max_grad_norm=1.0)["loss"] for _ in range(60)]
    assert losses[0] == pytest.approx(math.log(V), abs=0.1) and losses[-1] < 0.05


def test_nan_weights_stop_before_they_change() -> None:
    decoder = tiny_decoder(0)
    with torch.no_grad():
        decoder.model.embed_tokens.weight[7] = float("nan")
    before = weights_of(decoder).clone()
    batches = collate_packed([([1, 2, 3], [1] * 3), ([1, 7, 3], [1] * 3)], width=2)
    with pytest.raises(InvariantError, match="unchanged"):
        nll_step(decoder, sgd(decoder), batches, lr=1.0, max_grad_norm=1.0)
    torch.testing.assert_close(weights_of(decoder), before, rtol=0, atol=0, equal_nan=True)


def test_no_documents_is_an_error() -> None:
    decoder = tiny_decoder(0)
    with pytest.raises(DataError, match="without documents"):
        nll_step(decoder, sgd(decoder), [], lr=1.0, max_grad_norm=1.0)


def decoder_with_modules(seed: int = 0) -> Decoder:
    config = tiny_config().model_copy(update={"num_nextn_predict_layers": 2})
    return build_decoder(config, seed=seed, dtype=torch.float64)


def test_loss_of_modules_equals_the_formula_document_by_document() -> None:
    decoder = decoder_with_modules()
    total, weight, ahead = 0.0, 0.0, [0.0, 0.0]
    for ids, mask in documents():
        with torch.no_grad():
            states = decoder.forward_ahead(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
            tables = [decoder.logits(state)[0].log_softmax(-1) for state in states]
        for t in range(1, len(ids)):
            total -= mask[t] * tables[0][t - 1, ids[t]].item()
            weight += mask[t]
            for k in (1, 2):
                if t - k - 1 >= 0:
                    ahead[k - 1] -= mask[t] * tables[k][t - k - 1, ids[t]].item()
    batches = collate_packed(documents(), width=12)
    metrics = nll_step(decoder, sgd(decoder), batches, lr=0.0, max_grad_norm=1.0, mtp_weight=0.3)
    assert metrics["loss"] == pytest.approx(total / weight, rel=1e-6)
    assert metrics["mtp_loss"] == pytest.approx(sum(ahead) / 2 / weight, rel=1e-6)
    assert metrics["tokens"] == weight


def test_gradient_with_modules_is_the_same_for_any_packing_and_by_finite_differences() -> None:
    gradients = []
    for width in (24, 12, 40):
        decoder = decoder_with_modules()
        batches = collate_packed(documents(), width=width)
        nll_step(decoder, sgd(decoder), batches, lr=0.0, max_grad_norm=math.inf, mtp_weight=0.3)
        gradients.append(gradient_of(decoder))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-5, atol=1e-9)
    (batch,) = collate_packed(documents(), width=108)
    weight = float(batch.weights_BT.sum())

    def descended() -> float:
        loss, (_, own, ahead) = compute_nll_loss(decoder, batch, total_weight=weight, mtp_weight=0.3)
        assert loss.item() == pytest.approx(float(own + 0.3 * ahead))
        return loss.item()

    generator = torch.Generator().manual_seed(0)
    for name, parameter in decoder.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-5)
            up = descended()
            parameter.sub_(direction, alpha=2e-5)
            down = descended()
            parameter.add_(direction, alpha=1e-5)
        assert parameter.grad is not None
        want = (parameter.grad * direction).sum().item()
        assert (up - down) / 2e-5 == pytest.approx(want, rel=1e-5, abs=1e-8), name


def test_without_a_weight_modules_stay_as_they_are() -> None:
    decoder = decoder_with_modules()
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.1)
    before = [p.clone() for p in decoder.model.layers[2].parameters()]
    nll_step(decoder, optimizer, collate_packed(documents(), width=12), lr=0.1, max_grad_norm=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.model.layers[2].parameters(), strict=True))


def test_modules_alone_take_the_whole_gradient_of_their_loss() -> None:
    decoder, oracle = decoder_with_modules(), decoder_with_modules()
    (batch,) = collate_packed(documents(), width=100)
    weight = float(batch.weights_BT.sum())
    loss, _ = compute_nll_loss(oracle, batch, total_weight=weight, mtp_weight=1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    modules = decoder.modules_ahead()
    before = [p.detach().clone() for p in modules.parameters()]
    mtp_step(decoder, torch.optim.SGD(modules.parameters(), lr=1.0), [batch], lr=1.0, max_grad_norm=math.inf)
    for old, new, own in zip(before, modules.parameters(), oracle.modules_ahead().parameters(), strict=True):
        torch.testing.assert_close(old - new, own.grad)


def test_modules_alone_learn_and_the_body_stays() -> None:
    decoder = decoder_with_modules()
    modules = decoder.modules_ahead()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=0.01, weight_decay=0.0)
    ahead = ("model.layers.2.", "model.layers.3.")
    body = {name: p.clone() for name, p in decoder.named_parameters() if not name.startswith(ahead)}
    batches = collate_packed(documents(), width=12)
    losses = [mtp_step(decoder, optimizer, batches, lr=0.01, max_grad_norm=1.0)["mtp_loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(decoder.get_parameter(name), weight) for name, weight in body.items())
    assert all(parameter.requires_grad and parameter.grad is None for name, parameter in decoder.named_parameters()
               if name in body)
