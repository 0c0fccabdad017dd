"""How new weights are drawn, by the name of `MultimodalConfig(initialization=...)`."""

from torch import nn


#: "default": as each class draws its own. "kaiming": as the authors of PMR draw the weights of their whole model.
INITIALIZATIONS = ("default", "kaiming")


def initialize(module: nn.Module, initialization: str) -> None:
    """
    Draw the weights of a new module again, in place, unless `initialization` is `"default"`.

    `"kaiming"` is `weight_init` of the authors' code of PMR. Convolutions are drawn from a normal distribution with
    standard deviation sqrt(2 / fan_out) (He et al. 2015) and keep their biases. Linear layers are drawn with standard
    deviation sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010), and have biases of 0. Normalisation layers begin
    with a weight of 1 and a bias of 0. All other parameters keep their values.

    Args:
        module (`torch.nn.Module`): an encoder or head with new weights.
        initialization (`str`): one of `INITIALIZATIONS`.
    """
    if initialization == "default":
        return
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)):
            if part.weight is not None:
                nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
