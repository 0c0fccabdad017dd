"""The purity of clusters by loops."""


def purity_by_loops(labels, clusters):
    right = 0
    for cluster in set(clusters):
        members = [label for label, own in zip(labels, clusters, strict=True) if own == cluster]
        right += max(members.count(label) for label in members)
    return right / len(labels)
