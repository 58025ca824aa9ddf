"""Architectures from the libraries themselves, without trained weights."""

from __future__ import annotations

import importlib.util
import warnings

from torch import nn

from analyses._architectures import Architecture, normal, tokens
from analyses._nets import language


def installed_architectures() -> tuple[Architecture, ...]:
    """Those of torchvision, timm and transformers that are installed, without trained weights.

    A library that is installed and cannot be imported is left out, with a warning.
    """
    found: list[Architecture] = []
    for library, rows in (
        ("torchvision", _torchvision), ("timm", _timm), ("transformers", _transformers),
    ):  # fmt: skip
        if importlib.util.find_spec(library) is None:
            continue
        try:
            found += rows()
        except (ImportError, RuntimeError) as error:  # built for another torch
            warnings.warn(f"{library} is installed and does not work: {error}", stacklevel=2)
    return tuple(found)


def _torchvision() -> list[Architecture]:
    from torchvision import models

    names = ("resnet18", "mobilenet_v2", "convnext_tiny", "swin_t", "googlenet")

    def build(name: str) -> nn.Module:
        more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        return models.get_model(name, weights=None, **more)

    return [
        Architecture(f"torchvision/{name}", "torchvision", lambda name=name: build(name),
                     normal(4, 3, 64, 64), "images", True)
        for name in names
    ]  # fmt: skip


def _timm() -> list[Architecture]:
    import timm

    names = {"vit_tiny_patch16_224": True, "resnetv2_50": True, "nf_resnet26": False,
             "poolformer_s12": True, "efficientnet_lite0": True}  # fmt: skip

    def build(name: str) -> nn.Module:
        more = {"img_size": 64} if name.startswith("vit") else {}
        return timm.create_model(name, pretrained=False, **more)

    return [
        Architecture(f"timm/{name}", "timm", lambda name=name: build(name),
                     normal(4, 3, 64, 64), "images", norms)
        for name, norms in names.items()
    ]  # fmt: skip


def _transformers() -> list[Architecture]:
    import transformers as hf

    size, wide = language.VOCABULARY, 128
    common = {"hidden_size": wide, "num_hidden_layers": 3, "num_attention_heads": 4}
    configurations = {
        "gpt2": (
            hf.GPT2Config(vocab_size=size, n_embd=wide, n_layer=3, n_head=4, bos_token_id=0,
                          eos_token_id=0),
            "GPT2Model",
        ),
        "llama": (
            hf.LlamaConfig(vocab_size=size, intermediate_size=3 * wide, num_key_value_heads=2,
                           **common),
            "LlamaModel",
        ),
        "bert": (hf.BertConfig(vocab_size=size, intermediate_size=4 * wide, **common), "BertModel"),
        "t5": (
            hf.T5Config(vocab_size=size, d_model=wide, d_kv=32, d_ff=4 * wide, num_layers=3,
                        num_heads=4),
            "T5EncoderModel",
        ),
    }  # fmt: skip

    def build(configuration: object, kind: str) -> nn.Module:
        configuration.use_cache = False
        return getattr(hf, kind)(configuration).train()

    return [
        Architecture(f"transformers/{name}", "transformers",
                     lambda given=given: build(*given), tokens(8), "tokens", True)
        for name, given in configurations.items()
    ]  # fmt: skip
