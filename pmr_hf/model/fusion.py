"""Fusion heads, which map a dict of embeddings (B, D_m) to logits (B, K), for any number of modalities."""

import math

import torch
from torch import nn

from .missing_modalities import Masks, stack_masks
from .targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


class Fusion(nn.Module):
    """
    Base class of the fusion heads. To add your own head, register one class:

    ```python
    @register_fusion("max")
    class MaxFusion(Fusion):
        def __init__(self, widths, num_labels):
            super().__init__()
            self.heads = nn.ModuleDict({name: nn.Linear(width, num_labels) for name, width in widths.items()})

        def forward(self, embeddings):
            return torch.stack([head(embeddings[name]) for name, head in self.heads.items()]).amax(0)
    ```

    To load a model with this head, register the class first.

    Args:
        widths (`dict[str, int]`): width of each modality's embedding, in the order of fusion.
        num_labels (`int`): number of classes.
    """

    #: Whether the logits are a sum of one term per modality, which [`Fusion.modality_logits`] returns
    splits_by_modality = False

    #: Whether `forward` also takes `present`, the masks (B,) bool of the samples that have each modality. `None` stands
    #: for samples that have all of them. Other heads only see the learned vectors that replace absent embeddings.
    takes_masks = False

    #: Whether `__init__` also takes `problem_type`, one of [`~pmr_hf.model.targets.PROBLEM_TYPES`]
    takes_problem_type = False

    #: Whether the embeddings of all modalities must have one width
    needs_one_width = False

    def forward(self, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        """The fused logits (B, K), from the embeddings (B, D_m) by modality."""
        raise NotImplementedError

    def modality_logits(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        The share of each modality in the fused logits, (B, K) by modality. The shares sum to the fused logits.

        Raises:
            TypeError: if this head does not split by modality.
        """
        raise TypeError(
            f"Expected a fusion head that splits by modality (concat, sum), got {type(self).__name__}, whose logits "
            "are not a sum over modalities; use the prototype classifier of a modality instead."
        )


FUSIONS: dict[str, type[Fusion]] = {}


def register_fusion(name: str):
    """Class decorator that makes a [`Fusion`] available as `MultimodalConfig(fusion=name)`."""

    def register(cls: type[Fusion]) -> type[Fusion]:
        FUSIONS[name] = cls
        return cls

    return register


def build_fusion(name: str, widths: dict[str, int], num_labels: int, problem_type: str = SINGLE_LABEL) -> Fusion:
    """Build the fusion head registered as `name`. Raises `ValueError` for an unknown name."""
    if name not in FUSIONS:
        raise ValueError(
            f"Expected `fusion` to be one of {sorted(FUSIONS)}, got {name!r}; if this is a head of your own, import "
            f'the module that defines it with `@register_fusion("{name}")` before the model is built or loaded.'
        )
    head = FUSIONS[name]
    return head(widths, num_labels, **({"problem_type": problem_type} if head.takes_problem_type else {}))


@register_fusion("concat")
class ConcatFusion(Fusion):
    """One linear layer over the concatenated embeddings."""

    splits_by_modality = True

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        self.widths = dict(widths)
        self.classifier = nn.Linear(sum(widths.values()), num_labels)

    def forward(self, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.classifier(torch.cat([embeddings[name] for name in self.widths], dim=1))

    def modality_logits(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = self.classifier.weight.split(list(self.widths.values()), dim=1)
        bias = self.classifier.bias / len(self.widths)
        return {
            name: nn.functional.linear(embeddings[name], weight, bias)
            for name, weight in zip(self.widths, weights, strict=True)
        }


@register_fusion("sum")
class SumFusion(Fusion):
    """The sum of one linear layer for each modality."""

    splits_by_modality = True

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, num_labels) for name, width in widths.items()})

    def forward(self, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(self.modality_logits(embeddings).values())).sum(0)

    def modality_logits(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: classifier(embeddings[name]) for name, classifier in self.classifiers.items()}


class ConditionedFusion(Fusion):
    """
    Base class of FiLM and gated fusion. The first modality modulates the others, and a linear layer classifies the
    result. Raises `ValueError` for a single modality.
    """

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        if len(widths) < 2:
            raise ValueError(
                f"Expected at least two modalities for {type(self).__name__}, whose first modality conditions the "
                f"others, got {list(widths)}; use fusion='concat' for one modality."
            )
        self.condition, *self.conditioned = widths
        self.classifier = nn.Linear(sum(widths[name] for name in self.conditioned), num_labels)

    def forward(self, embeddings: dict[str, torch.Tensor]) -> torch.Tensor:
        condition = embeddings[self.condition]
        return self.classifier(
            torch.cat([self.modulate(name, condition, embeddings[name]) for name in self.conditioned], dim=1)
        )

    def modulate(self, name: str, condition: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Modulate the embedding (B, D_m) of the modality `name` by the embedding (B, D_0) of the first modality."""
        raise NotImplementedError


@register_fusion("film")
class FiLMFusion(ConditionedFusion):
    """Feature-wise linear modulation (Perez et al. 2018): fc(gamma(z0) * z1 + beta(z0))."""

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__(widths, num_labels)
        width = widths[self.condition]
        self.gamma = nn.ModuleDict({name: nn.Linear(width, widths[name]) for name in self.conditioned})
        self.beta = nn.ModuleDict({name: nn.Linear(width, widths[name]) for name in self.conditioned})

    def modulate(self, name: str, condition: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.gamma[name](condition) * embedding + self.beta[name](condition)


@register_fusion("gated")
class GatedFusion(ConditionedFusion):
    """Gated fusion (Kiela et al. 2018): fc(sigmoid(W0 z0) * W1 z1)."""

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__(widths, num_labels)
        self.gate = nn.ModuleDict({name: nn.Linear(widths[self.condition], widths[name]) for name in self.conditioned})
        self.value = nn.ModuleDict({name: nn.Linear(widths[name], widths[name]) for name in self.conditioned})

    def modulate(self, name: str, condition: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.gate[name](condition)) * self.value[name](embedding)


@register_fusion("attention")
class AttentionFusion(Fusion):
    """
    One pre-norm transformer layer (Vaswani et al. 2017; Xiong et al. 2020) over one token per modality, and a linear
    layer over the mean of the tokens.

    A linear layer per modality makes the tokens, and its bias tells the transformer which modality a token is. A
    modality that a sample lacks is masked: no other token sees it and it is not in the mean, so the logits do not
    depend on it. Without any modality, they are the bias of the classifier. The mean takes the place of a class token,
    with which a single layer would never use what the modalities learn of each other.

    The tokens are as wide as the widest embedding, rounded up to a multiple of the number of attention heads. With
    `embedding_dim`, that is the width of all embeddings.
    """

    takes_masks = True
    attention_heads = 4

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        width = math.ceil(max(widths.values()) / self.attention_heads) * self.attention_heads
        self.tokens = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.items()})
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, embeddings: dict[str, torch.Tensor], present: Masks | None = None) -> torch.Tensor:
        """The logits (B, K). In the rows that a mask of `present` leaves out, the embedding must be finite."""
        tokens = torch.stack([token(embeddings[name]) for name, token in self.tokens.items()], dim=1)  # (B, M, D)
        kept = stack_masks(present, self.tokens, tokens).T  # (B, M)
        tokens = tokens + self.attend(self.attention_norm(tokens), kept)
        tokens = self.norm(tokens + self.feed_forward(self.feed_forward_norm(tokens)))
        mean = torch.where(kept[:, :, None], tokens, 0).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)
        return self.classifier(mean)

    def attend(self, tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Multi-head attention of tokens (B, M, D) to those in the mask `kept` (B, M) bool."""
        split = self.query_key_value(tokens).unflatten(2, (3, self.attention_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, M, D / H)
        # A token also sees itself, since a softmax over no token is NaN.
        seen = kept[:, None, :] | torch.eye(kept.shape[1], dtype=torch.bool, device=kept.device)  # (B, M, M)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        return self.attended(mixed.transpose(1, 2).flatten(2))


@register_fusion("late")
class LateFusion(Fusion):
    """
    The linear layer of each modality predicts alone. The answer is the weighted mean of the predictions of those that a
    sample has, in fp32. For one label per sample, it is the mean of class probabilities, and the logits are its
    logarithm. For several labels, it is the mean probability of each label, and the logits are its log odds. For a
    regression, it is the mean of the numbers. A sample without any modality gets equal probabilities, or the mean
    target.

    The buffer `log_weights` (M,) has the logarithms of the weights, which are equal unless
    [`MultimodalModel.from_unimodal`] or [`LateFusionTrainer`] sets them.
    """

    takes_masks = True
    takes_problem_type = True

    def __init__(self, widths: dict[str, int], num_labels: int, problem_type: str = SINGLE_LABEL):
        super().__init__()
        self.problem_type = problem_type
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, num_labels) for name, width in widths.items()})
        self.register_buffer("log_weights", torch.zeros(len(widths)))

    def unimodal_logits(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the layer of each modality gives, (B, K) by modality."""
        return {name: layer(embeddings[name]) for name, layer in self.classifiers.items()}

    def forward(self, embeddings: dict[str, torch.Tensor], present: Masks | None = None) -> torch.Tensor:
        """The logits (B, K). In the rows that a mask of `present` leaves out, the embedding must be finite."""
        logits = torch.stack([values.float() for values in self.unimodal_logits(embeddings).values()])  # (M, B, K)
        kept = stack_masks(present, self.classifiers, logits[0])  # (M, B)
        none = ~kept.any(0)
        shares = torch.where(kept | none, self.log_weights.float()[:, None], -torch.inf).log_softmax(0)[:, :, None]
        if self.problem_type == REGRESSION:
            mean, of_none = (shares.exp() * logits).sum(0), 0.0
        elif self.problem_type == MULTI_LABEL:
            with_label, without = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
            mean, of_none = (with_label + shares).logsumexp(0) - (without + shares).logsumexp(0), 0.0
        else:
            mean, of_none = (logits.log_softmax(-1) + shares).logsumexp(0), -math.log(logits.shape[-1])
        return torch.where(none[:, None], of_none, mean)


@register_fusion("shared")
class SharedFusion(Fusion):
    """
    One linear layer for all modalities. The logits of a sample are the weighted mean of what the layer makes of each
    modality alone, with the weights of [`entropy_weights`]. A modality that a sample lacks is left out. Without any
    modality, the logits are the bias of the layer. For one label per sample only.

    This is the head and the test-time fusion of MLA (Zhang et al., CVPR 2024), see [`MLATrainer`].

    Raises:
        ValueError: if the embeddings differ in width.
    """

    takes_masks = True
    needs_one_width = True

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__()
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"Expected embeddings of one width for fusion='shared', whose one layer takes each of them, got "
                f"{widths}; set `embedding_dim`, such as {max(widths.values())}."
            )
        self.modalities = list(widths)
        self.classifier = nn.Linear(next(iter(widths.values())), num_labels)

    def forward(self, embeddings: dict[str, torch.Tensor], present: Masks | None = None) -> torch.Tensor:
        """The logits (B, K). In the rows that a mask of `present` leaves out, the embedding must be finite."""
        logits = torch.stack(list(self.logits_alone(embeddings).values()))  # (M, B, K)
        return self.mean(logits, stack_masks(present, self.modalities, logits[0]))

    def logits_alone(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the layer makes of each modality alone, (B, K) by modality. They do not sum to the fused logits."""
        return {name: self.classifier(embeddings[name]) for name in self.modalities}

    def mean(self, logits: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """The fused logits (B, K) of logits (M, B, K), of which the mask `kept` (M, B) bool marks those to take."""
        logits = torch.where(kept[:, :, None], logits, 0)  # an overflow in what is absent must not count
        weights = entropy_weights(logits, kept).to(logits.dtype)
        fused = (weights[:, :, None] * logits).sum(0)
        return torch.where(kept.any(0)[:, None], fused, self.classifier.bias.to(logits.dtype))


def entropy_weights(logits: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """
    The weight of each modality in the fusion of MLA: exp(-H^m) over the sum of exp(-H^l) over the modalities l of the
    sample, where H^m is the entropy of softmax(logits^m), in nats. The lower its entropy, the more a modality counts.

    Args:
        logits (`torch.Tensor`): (M, B, K), the logits of each modality alone.
        kept (`torch.Tensor`): (M, B) bool, the modalities that each sample has.

    Returns:
        `torch.Tensor`: (M, B) in fp32. The weights of a sample sum to 1, or are 0 if it has no modality.
    """
    log_p = logits.float().log_softmax(-1)
    entropies = -(log_p.exp() * log_p).sum(-1)  # (M, B)
    lowest = torch.finfo(entropies.dtype).min  # and not -inf, whose softmax over no modality is NaN
    return torch.where(kept, torch.where(kept, -entropies, lowest).softmax(0), 0)
