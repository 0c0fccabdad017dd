"""The terms of PMR as means over a batch, computed by the package from the logits of one prototype classifier."""

from pmr_hf import equations


def true_class_probability(logits, labels):
    return equations.true_class_probability(equations.prototypical_cross_entropy(logits.log_softmax(-1), labels))


def masked_score(logits, labels, mask):
    return equations.masked_mean(true_class_probability(logits, labels), mask)


def prototypical_cross_entropy(logits, labels, mask=None):
    return equations.masked_mean(equations.prototypical_cross_entropy(logits.log_softmax(-1), labels), mask)


def prototypical_entropy(logits, mask=None):
    return equations.masked_mean(equations.prototypical_entropy(logits.log_softmax(-1)), mask)
