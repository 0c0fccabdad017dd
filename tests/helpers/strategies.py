"""Hypothesis strategies: tensors of any magnitude and type, labels, shapes, and values that no column should hold."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


EPS = torch.finfo(torch.float32).eps
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
EXTREME = st.just(0.0) | st.builds(
    lambda sign, digits, exponent: sign * digits * 10.0**exponent,
    st.sampled_from([-1, 1]),
    st.floats(1, 9.99),
    st.integers(-15, 14),
)
MODERATE = st.integers(-80, 80).map(lambda value: value / 8)  # exact in every dtype but bf16


def tensors(*shape, elements=EXTREME):
    """Tensors of fp64. numpy's `fill` repeats one element, so that duplicates are common."""
    return arrays(np.float64, shape, elements=elements, fill=elements).map(torch.from_numpy)


def cast(tensor, dtype):
    return tensor.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else tensor.to(dtype)


@st.composite
def classifiers(draw, elements=EXTREME):
    """Embeddings (B, D), prototypes (K, D), the seen classes (K,), and labels (B,), sometimes all of one class."""
    size, classes, width = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    embeddings, prototypes = (
        draw(tensors(size, width, elements=elements)),
        draw(tensors(classes, width, elements=elements)),
    )
    if draw(st.booleans()):  # a sample at the place of a prototype
        embeddings[0] = prototypes[0]
    seen = torch.tensor(draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
    one = st.integers(0, classes - 1)
    labels = draw(one.map(lambda label: [label] * size) | st.lists(one, min_size=size, max_size=size))
    return embeddings, torch.where(seen[:, None], prototypes, 0), seen, torch.tensor(labels)


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NAMES = st.sampled_from(["image", "text", "audio", "Image", ""])
LABEL = st.integers(0, 3)
LABELS = LABEL | LABEL.map(np.int32) | LABEL.map(np.uint8) | LABEL.map(torch.tensor)

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            object(),
            10**400,
            "\ud800",
            "\0",
            [[1.0], [2.0, 3.0]],
            "nothing.png",
            np.zeros((2, 0)),
            np.ones((9, 9, 9)),
            1j,
            {1, 2},
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "path", "array", "sampling_rate"]), inner)
    ),
    max_leaves=5,
)
