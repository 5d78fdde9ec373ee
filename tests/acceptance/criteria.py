"""The acceptance criteria: what has to hold for a trained model to be the one that the method promises.

A the algebra of the loss; B tables whose optimum is known; C log-probabilities and cached rewards; D the training
system; E fronts and their statistics; F directions of small language models; O oracles written by others;
V models of every family, and texts of every form.
"""

from __future__ import annotations

CRITERIA = {
    "A1": "losses of two and three objectives are the numbers worked out by hand",
    "A2": "with all weight on the primary objective the loss is DPO's",
    "A3": "a common factor of weights and beta, or of a margin's reward and its unit, changes nothing",
    "A4": "an amount that depends on the prompt alone cancels from every margin reward",
    "A5": "swapping the two responses negates the logit; order and duplicates of margins change nothing",
    "A6": "gradients are the closed form, for the policy alone",
    "A7": "weights, rewards and settings that the loss cannot use are refused",
    "A8": "an objective without weight changes no bit",
    "B1": "the loss's minimiser over all labels of a table is pi_ref exp(w.r / beta) / Z",
    "B2": "whichever objective is primary, whatever the units: the same policy",
    "B3": "E[w.r] - beta KL(pi || pi_ref) = beta log Z - beta KL(pi || pi*), for every policy",
    "B4": "the optimum is the product of the single-objective optima, each to the power of its weight",
    "B5": "(w - w').(V(w) - V(w')) is never negative",
    "B6": "an objective's value rises with its weight, and falls if its reward is negated",
    "B7": "errors of the margin rewards enter with the margin's weight, and nothing else does",
    "B8": "labels must be draws: argmax labels move the optimum the wrong way, soft ones do not",
    "B9": "through tokenizer, tables, Tune trial, Train workers, engine and checkpoint: the optimum",
    "C1": "response log-probabilities are those of a naive loop over tokens",
    "C2": "padding, packing and the company in a batch do not matter",
    "C3": "cached reference log-probabilities and margin rewards are those computed afresh",
    "C4": "whatever the cached numbers depend on changes their key",
    "C5": "where the margin's model is the policy itself, the logit is (beta / w_k)(1 - w_m) Delta log-ratio",
    "C6": "truncated and empty responses are counted and never become NaN",
    "C7": "lengths as rewards are exact whole numbers",
    "D1": "frozen weights keep every bit, have no gradient and no optimiser state",
    "D2": "the policy's logits do not depend on margin models having been loaded",
    "D3": "micro-batches, accumulation, workers, ZeRO stages and Ray do not change the losses",
    "D4": "a training that was stopped and resumed ends with the same bits",
    "D5": "a killed worker costs no bit",
    "D6": "no reference and no margin model runs in a trial, and each scores a response once a sweep",
    "D7": "the same seed gives the same bytes; weight vectors share their first state and data order",
    "D8": "a point with all weight on one objective is trained to the bits of plain DPO",
    "D9": "weights saved under ZeRO-3 reload to the same log-probabilities",
    "E1": "hypervolumes are those of moocore and pymoo, and of a union of boxes",
    "E2": "non-dominated points are those of comparing every two; ties stay",
    "E3": "both estimators of the KL agree with the exact sum over a table",
    "E4": "intervals cover the true mean as often as they say",
    "F1": "responses get shorter as brevity gets heavier",
    "F2": "both values move with their weights, and the front is no worse than the chord of its ends",
    "F3": "the end of a front is as good as a DPO training of its own",
    "O1": "TRL's DPOTrainer, given the reference that the margin implies, takes the same steps",
    "O2": "losses that claim the optimum reach it, and the two that do not claim it do not",
    "V1": "log-probabilities and gradients of every supported family are those of its own padded forward pass",
    "V2": "at step 0 policy and reference agree in every supported family",
    "V3": "families that cannot be scored are refused by name",
}
