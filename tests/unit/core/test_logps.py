"""Log-probabilities and KL from logits, against a naive loop, hand counts and an enumerated policy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from modpo.core.batch import IGNORED_LABEL
from modpo.core.logps import response_logps, sampled_kl
from tests.acceptance.plugin import Accept


def naive_logps(logits_NTV: Tensor, labels_NT: Tensor) -> list[float]:
    """Probability of every labelled token given the position before it, one Python float at a time."""
    sums = []
    for logits, labels in zip(logits_NTV.double().tolist(), labels_NT.tolist(), strict=True):
        total = 0.0
        for position in range(1, len(labels)):
            if labels[position] != IGNORED_LABEL:
                scores = logits[position - 1]
                total += scores[labels[position]] - math.log(sum(math.exp(score) for score in scores))
        sums.append(total)
    return sums


def random_sequences(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 9, 11, generator=generator)
    labels = torch.randint(11, (4, 9), generator=generator)
    labels[0, :3] = labels[1, :5] = labels[2, :2] = IGNORED_LABEL
    labels[2, 6:] = labels[3, :] = IGNORED_LABEL
    labels[3, 8] = 4
    return logits.to(dtype), labels


def test_equal_to_a_naive_loop(accept: Accept) -> None:
    logits, labels = random_sequences()
    errors = response_logps(logits, labels) - torch.tensor(naive_logps(logits, labels), dtype=torch.float64)
    accept("C1", "largest error in nats", errors.abs().max().item(), at_most=1e-5)


def test_uniform_logits_by_hand() -> None:
    """Three response tokens of probability 1/4: 3 log(1/4). The first token has no position before it and no effect."""
    logits, labels = torch.zeros(1, 5, 4), torch.tensor([[IGNORED_LABEL, IGNORED_LABEL, 1, 0, 3]])
    assert response_logps(logits, labels).item() == pytest.approx(3 * math.log(1 / 4), rel=1e-6)
    labels[0, 0] = 2
    assert response_logps(logits, labels).item() == pytest.approx(3 * math.log(1 / 4), rel=1e-6)


def test_token_is_scored_by_the_position_before_it() -> None:
    """Only the logits at position 1 say that token 2 comes at position 2."""
    logits, labels = torch.zeros(1, 4, 3), torch.tensor([[IGNORED_LABEL, IGNORED_LABEL, 2, IGNORED_LABEL]])
    logits[0, 1, 2] = 50.0
    assert response_logps(logits, labels).item() == pytest.approx(0, abs=1e-6)
    for position in (0, 2, 3):
        elsewhere = torch.zeros(1, 4, 3)
        elsewhere[0, position, 2] = 50.0
        assert response_logps(elsewhere, labels).item() == pytest.approx(math.log(1 / 3), rel=1e-6)


def test_prompt_tokens_do_not_count() -> None:
    logits, labels = random_sequences()
    changed = logits.clone()
    changed[1, :3] += 5 * torch.randn(3, 11, generator=torch.Generator().manual_seed(1))
    assert response_logps(changed, labels)[1] == response_logps(logits, labels)[1]


def test_a_response_without_tokens_is_certain(accept: Accept) -> None:
    logits, labels = random_sequences()
    labels[3] = IGNORED_LABEL
    accept("C6", "|log-probability| of a response without tokens", response_logps(logits, labels)[3].abs(), at_most=0)


def test_half_precision_logits_are_summed_in_float64() -> None:
    """2,048 tokens of probability 1/2 in bfloat16: a bfloat16 sum would stop growing near -512; ours is exact."""
    labels = torch.zeros(1, 2049, dtype=torch.long)
    labels[0, 0] = IGNORED_LABEL
    logps = response_logps(torch.zeros(1, 2049, 2, dtype=torch.bfloat16), labels)
    assert logps.dtype == torch.float64
    assert logps.item() == pytest.approx(2048 * math.log(1 / 2), rel=1e-7)


def test_float64_logits_keep_their_precision() -> None:
    logits, labels = random_sequences(torch.float64)
    assert response_logps(logits, labels).tolist() == pytest.approx(naive_logps(logits, labels), abs=1e-12)


class MarkovPolicies:
    """A policy and a reference over sequences of three tokens after a start token, each token depending on the last."""

    vocabulary, length = 3, 3

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.policy, self.reference = (
            torch.randn(self.vocabulary, self.vocabulary, generator=generator, dtype=torch.float64) for _ in range(2)
        )

    def exact_kl(self) -> float:
        """Sum over all 27 sequences of pi log(pi / pi_ref)."""
        policy, reference = (torch.log_softmax(table, -1).tolist() for table in (self.policy, self.reference))
        total = 0.0
        for sequence in itertools.product(range(self.vocabulary), repeat=self.length):
            steps = list(itertools.pairwise((0, *sequence)))
            log_p, log_q = (sum(table[a][b] for a, b in steps) for table in (policy, reference))
            total += math.exp(log_p) * (log_p - log_q)
        return total

    def sample(self, count: int) -> Tensor:
        """(count, 1 + length) tokens drawn from the policy."""
        generator = torch.Generator().manual_seed(3)
        tokens = torch.zeros(count, 1, dtype=torch.long)
        for _ in range(self.length):
            probabilities = torch.softmax(self.policy, -1)[tokens[:, -1]]
            tokens = torch.cat([tokens, torch.multinomial(probabilities, 1, generator=generator)], -1)
        return tokens


@pytest.fixture(scope="module")
def markov() -> tuple[MarkovPolicies, Tensor, Tensor]:
    """Policies and both KL estimates of 20,000 samples."""
    policies = MarkovPolicies()
    tokens = policies.sample(20_000)
    labels = tokens.clone()
    labels[:, 0] = IGNORED_LABEL
    k1, exact = sampled_kl(policies.policy[tokens], policies.reference[tokens], labels)
    return policies, k1, exact


@pytest.mark.parametrize("estimate", ["k1", "position by position", "k3"])
def test_kl_estimates_are_unbiased(
    markov: tuple[MarkovPolicies, Tensor, Tensor], estimate: str, accept: Accept
) -> None:
    """k3 = e^-d - 1 + d of the same d = log pi / pi_ref as k1; it is not used, and shows that these are the right d."""
    policies, k1, exact = markov
    values = {"k1": k1, "position by position": exact, "k3": torch.exp(-k1) - 1 + k1}[estimate]
    standard_error = values.std().item() / math.sqrt(len(values))
    distance = abs(values.mean().item() - policies.exact_kl()) / standard_error
    accept("E3", f"standard errors from the exact KL, {estimate}", distance, at_most=4)


def test_exact_estimate_is_never_negative_and_varies_less(
    markov: tuple[MarkovPolicies, Tensor, Tensor], accept: Accept
) -> None:
    _, k1, exact = markov
    accept("E3", "smallest value of the estimate position by position", exact.min().item(), at_least=0)
    accept("E3", "its variance over that of k1", exact.var().item() / k1.var().item(), at_most=0.5)
    assert k1.min().item() < 0


def test_equal_models_are_at_no_distance() -> None:
    logits, labels = random_sequences()
    k1, exact = sampled_kl(logits, logits, labels)
    assert k1.tolist() == [0] * 4
    assert exact.tolist() == [0] * 4


def test_k1_is_the_difference_of_the_log_probabilities() -> None:
    policy, labels = random_sequences(torch.float64)
    reference = policy.roll(1, dims=-1)
    k1, _ = sampled_kl(policy, reference, labels)
    difference = response_logps(policy, labels) - response_logps(reference, labels)
    assert k1.tolist() == pytest.approx(difference.tolist(), abs=1e-4)


def test_prompt_and_padding_positions_add_nothing_to_the_kl() -> None:
    policy, labels = random_sequences()
    reference = policy.clone()
    reference[2, 0] += torch.arange(11)  # predicts position 1, a prompt token
    reference[2, 5:] -= torch.arange(11)  # predict positions 6 on, padding
    k1, exact = sampled_kl(policy, reference, labels)
    assert (k1[2].item(), exact[2].item()) == (0, 0)
