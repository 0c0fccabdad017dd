"""The oracle: PMR written from the paper's equations, with explicit loops over samples, classes and modalities.

It shares nothing with the package and computes in float64. Embeddings, prototypes and labels are nested lists; a class
without a prototype is `None`.
"""

import math
import statistics


def distance(z, c):
    return max(math.sqrt(sum((a - b) ** 2 for a, b in zip(z, c, strict=True))), 1e-6)


def probabilities(z, prototypes):
    """Eq. 7. An unseen class has probability 0."""
    distances = [None if c is None else distance(z, c) for c in prototypes]
    least = min(d for d in distances if d is not None)
    weights = [0.0 if d is None else math.exp(least - d) for d in distances]
    return [w / sum(weights) for w in weights]


def log_probability(z, prototypes, y):
    """log p(y), without underflow."""
    distances = [distance(z, c) for c in prototypes if c is not None]
    least = min(distances)
    return least - distance(z, prototypes[y]) - math.log(sum(math.exp(least - d) for d in distances))


def counted(embeddings, prototypes, labels):
    return [(z, y) for z, y in zip(embeddings, labels, strict=True) if prototypes[y] is not None]


def score(embeddings, prototypes, labels):
    """The score s^m: the mean probability of the true class."""
    samples = counted(embeddings, prototypes, labels)
    return sum(probabilities(z, prototypes)[y] for z, y in samples) / len(samples)


def of_common_classes(all_prototypes):
    """Each modality's prototypes, but only of the classes that all of them have, so that their scores compare."""
    common = [None not in of_class for of_class in zip(*all_prototypes, strict=True)]
    return [[c if kept else None for c, kept in zip(row, common, strict=True)] for row in all_prototypes]


def cross_entropy(embeddings, prototypes, labels):
    """Eq. 9: the prototypical cross entropy."""
    samples = counted(embeddings, prototypes, labels)
    return -sum(log_probability(z, prototypes, y) for z, y in samples) / len(samples)


def entropy(embeddings, prototypes, labels):
    """The mean entropy H of Eq. 13."""
    samples = counted(embeddings, prototypes, labels)
    total = 0.0
    for z, _ in samples:
        total -= sum(p * math.log(p) for p in probabilities(z, prototypes) if p > 0)
    return total / len(samples)


def clip(value):
    return min(max(value, 0.0), 1.0)


def two_modality_weights(score_0, score_1):
    """Eq. 11 as printed, and crossed as in Eq. 13: the two weights of the cross entropies, those of the entropies."""
    rho = score_0 / score_1
    beta = clip(1 / rho - 1) if rho < 1 else 0.0
    gamma = 0.0 if rho < 1 else clip(rho - 1)
    return (beta, gamma), (gamma, beta)


def weights(scores):
    """The weights of M modalities: those of the cross entropies, those of the entropies."""
    return [clip(max(scores) / s - 1) for s in scores], [clip(s / min(scores) - 1) for s in scores]


def prototypes(embeddings, labels, num_classes):
    """Eq. 6: the class means."""
    means = []
    for k in range(num_classes):
        members = [z for z, y in zip(embeddings, labels, strict=True) if y == k]
        means.append([sum(column) / len(members) for column in zip(*members, strict=True)] if members else None)
    return means


def momentum(old, new, eps):
    """Eq. 12, the momentum update, for one class."""
    if old is None or new is None:
        return new if old is None else old
    return [eps * a + (1 - eps) * b for a, b in zip(old, new, strict=True)]


def rebalance_loss(embeddings, all_prototypes, labels, alpha, mu, entropy_active=True, hard=False):
    """Eqs. 10-13 without the cross entropy; embeddings and prototypes are lists over modalities."""
    scores = [score(z, c, labels) for z, c in zip(embeddings, of_common_classes(all_prototypes), strict=True)]
    pce_weights, per_weights = weights(scores)
    if hard:
        pce_weights, per_weights = [float(w > 0) for w in pce_weights], [float(w > 0) for w in per_weights]
    loss = 0.0
    for z, c, a, e in zip(embeddings, all_prototypes, pce_weights, per_weights, strict=True):
        loss += alpha * a * cross_entropy(z, c, labels)
        if entropy_active:
            loss -= mu * e * entropy(z, c, labels)
    return loss


def mean_probability(logits, labels):
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    return statistics.mean(row[label] / sum(row) for row, label in zip(rows, labels.tolist(), strict=True))
