"""The laws by which libraries draw the weights of a model."""

from __future__ import annotations

import math

from torch import nn

TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal number cut at ±2."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fan_out(model: nn.Module, linear_std: float | None = None) -> nn.Module:
    """torchvision's ResNets: Kaiming normal by fan out; linear layers as torch draws them.

    Args:
        model: to draw.
        linear_std: of the weights of linear layers, whose biases then are 0 (VGG, MobileNet).
    """
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(module)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0, linear_std)
            zero_bias(module)
    return model


def fan_in(model: nn.Module) -> nn.Module:
    """torchvision's DenseNet: Kaiming normal by fan in; biases of linear layers 0."""
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            zero_bias(module)
    return model


def regnet(model: nn.Module) -> nn.Module:
    """torchvision's RegNet: a fan out that does not know of groups."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            zero_bias(module)
    return model


def efficientnet(model: nn.Module) -> nn.Module:
    """torchvision's EfficientNet: fan out, linear layers uniform within 1/√out."""
    fan_out(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            limit = 1.0 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -limit, limit)
            zero_bias(module)
    return model


def truncated(model: nn.Module, std: float = 0.02, convolutions: bool = True) -> nn.Module:
    """Truncated normal weights, biases 0: ConvNeXt, PoolFormer; Swin and ViT for linear layers."""
    kinds = (nn.Linear, *CONVOLUTIONS) if convolutions else (nn.Linear,)
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.trunc_normal_(module.weight, std=std)
            zero_bias(module)
    return model


def normal(model: nn.Module, std: float = 0.02) -> nn.Module:
    """transformers' BERT, GPT-2, Llama: normal weights and tables, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        if isinstance(module, nn.Linear):
            zero_bias(module)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())
    return model


def mixer(model: nn.Module) -> nn.Module:
    """timm's MLP-Mixer and ResMLP: Xavier uniform, small biases, LeCun normal patches."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=1e-6)
        elif isinstance(module, nn.Conv2d):
            std = math.sqrt(1 / module.weight[0].numel()) / TRUNCATED
            nn.init.trunc_normal_(module.weight, 0, std, -2 * std, 2 * std)
            zero_bias(module)
    return model


def zero_bias(module: nn.Module) -> None:
    """Biases 0, where there are some."""
    if module.bias is not None:
        nn.init.zeros_(module.bias)
