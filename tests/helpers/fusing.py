"""The fusion head on one sample, as oracles with loops over samples run it."""

import torch


def logits_of_sample(model, embeddings, kept):
    """The fused logits (K,) from a sample's embeddings (D_m,) by modality, if it only has the modalities in `kept`."""
    inputs = {}
    for name, embedding in embeddings.items():
        projected = model.projections[name](embedding) if name in model.projections else embedding
        inputs[name] = (projected if name in kept else model.absent[name])[None]
    masks = [{name: torch.tensor([name in kept]) for name in inputs}] if model.fusion.takes_masks else []
    return model.fusion(inputs, *masks)[0]
