"""The oracle for several labels: each label is a classifier of two classes, by the oracle of one label."""

from helpers import oracle


def prototypes_of_label(embeddings, labels, k):
    """The mean of the samples without label k, and of those with it; `None` if there are none."""
    return oracle.prototypes(embeddings, [int(row[k]) for row in labels], 2)


def terms(all_embeddings, all_prototypes, labels):
    """
    PCE, entropy and score of each modality: means over samples of means over labels. `all_prototypes` has, for each
    modality and label, two prototypes.
    """
    count = len(labels[0])
    common = [k for k in range(count) if all(None not in of_label[k] for of_label in all_prototypes)]
    result = []
    for embeddings, of_label in zip(all_embeddings, all_prototypes, strict=True):
        known = [k for k in range(count) if None not in of_label[k]]
        pce = entropy = score = 0.0
        for z, row in zip(embeddings, labels, strict=True):
            for k in known:
                pce -= oracle.log_probability(z, of_label[k], int(row[k])) / len(known)
                entropy += oracle.entropy([z], of_label[k], [0]) / len(known)
            for k in common:
                score += oracle.probabilities(z, of_label[k])[int(row[k])] / len(common)
        result.append((pce / len(labels), entropy / len(labels), score / len(labels)))
    return result
