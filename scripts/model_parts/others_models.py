"""The models: other people's architectures, some with fewer and narrower blocks of the same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import others_signals as signals
import torch
from others_libraries import library
from torch import Tensor, nn

Make = Callable[[], nn.Module]

# By the first word of a model's name.
LIBRARIES = {
    "tv": "torchvision.models",
    "timm": "timm",
    "smp": "segmentation_models_pytorch",
    "monai": "monai.networks.nets",
    "hf": "transformers",
}


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        make: Builds it with random weights.
        shape: Of one sample of its input.
        vocabulary: Where its input is whole numbers below this; 0 for real numbers.
        is_small: Whether it has fewer or narrower blocks than its library's default.
    """

    make: Make
    shape: tuple[int, ...]
    vocabulary: int = 0
    is_small: bool = False

    def inputs(self, count: int, seed: int) -> Tensor:
        """Return ``count`` samples: numbers of a vocabulary, or smooth shapes with some noise."""
        generator = torch.Generator().manual_seed(seed)
        size = (count, *self.shape)
        if self.vocabulary:
            return torch.randint(self.vocabulary, size, generator=generator)
        noise = torch.randn(size, generator=generator)
        sides = [max(1, side // 8) for side in self.shape[1:]]
        coarse = torch.randn(count, self.shape[0], *sides, generator=generator)
        modes = {0: "nearest", 1: "linear", 2: "bilinear"}
        if len(self.shape) == 1:
            return noise
        return nn.functional.interpolate(coarse, self.shape[1:], mode=modes[len(self.shape) - 1]) + 0.2 * noise


class Only(nn.Module):
    """A model of transformers that returns one tensor."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, values: Tensor) -> Tensor:
        """Return the named output."""
        result: Tensor = getattr(self.model(values), self.output)
        return result


def tv(name: str, *arguments: Any, **options: Any) -> Make:
    """Return a builder of a model of torchvision."""
    return lambda: _named(LIBRARIES["tv"], name)(*arguments, **options)


def timm(name: str, **options: Any) -> Make:
    """Return a builder of a model of timm."""
    return lambda: library("timm").create_model(name, pretrained=False, **({"num_classes": 10} | options))


def smp(name: str, encoder: str = "resnet18", **options: Any) -> Make:
    """Return a builder of a model of segmentation-models-pytorch."""
    return lambda: _named(LIBRARIES["smp"], name)(encoder, encoder_weights=None, **options)


def monai(name: str, **options: Any) -> Make:
    """Return a builder of a model of MONAI."""
    return lambda: _named(LIBRARIES["monai"], name)(**options)


def hugging(name: str, output: str = "last_hidden_state", **options: Any) -> Make:
    """Return a builder of a model of transformers with a configuration of its own."""

    def make() -> nn.Module:
        configuration = _named(LIBRARIES["hf"], name.replace("Model", "Config"))(**options)
        model = _named(LIBRARIES["hf"], name)._from_config(configuration, attn_implementation="eager")
        return Only(model, output)

    return make


def _named(package: str, path: str) -> Any:
    found = library(package)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _tv_regnet() -> nn.Module:
    regnet = library("torchvision.models.regnet")
    parameters = regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=16.0, w_m=2.0, group_width=8, se_ratio=0.25)
    model: nn.Module = regnet.RegNet(parameters, num_classes=10)
    return model


def _tv_convnext() -> nn.Module:
    convnext = library("torchvision.models.convnext")
    stages = [convnext.CNBlockConfig(24, 48, 1), convnext.CNBlockConfig(48, None, 1)]
    model: nn.Module = convnext.ConvNeXt(stages, num_classes=10)
    return model


def _tv_efficientnet(is_second: bool) -> nn.Module:
    efficientnet = library("torchvision.models.efficientnet")
    first = efficientnet.FusedMBConvConfig if is_second else efficientnet.MBConvConfig
    later = efficientnet.MBConvConfig
    stages = [
        first(1, 3, 1, 16, 16, 1),
        first(4, 3, 2, 16, 24, 1),
        later(4, 3, 2, 24, 32, 2),
        later(6, 5, 2, 32, 48, 1),
    ]
    model: nn.Module = efficientnet.EfficientNet(stages, 0.1, num_classes=10, last_channel=96)
    return model


def _tv_resnet(block: str, **options: Any) -> Make:
    def make() -> nn.Module:
        resnet = library("torchvision.models.resnet")
        model: nn.Module = resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=10, **options)
        return model

    return make


def _tv_lraspp() -> nn.Module:
    model = library("torchvision.models.segmentation").lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    return Output(model)


def _timm_mixer(block: str = "MixerBlock", norm: str = "LayerNorm") -> nn.Module:
    mixer = library("timm.models.mlp_mixer")
    layers = {"block_layer": getattr(mixer, block), "norm_layer": getattr(mixer, norm, nn.LayerNorm)}
    if block == "ResBlock":
        layers["mlp_ratio"] = 4
    model: nn.Module = mixer.MlpMixer(num_classes=10, img_size=64, num_blocks=2, embed_dim=48, **layers)
    return model


def _timm_poolformer() -> nn.Module:
    metaformer = library("timm.models.metaformer")
    model: nn.Module = metaformer.MetaFormer(
        num_classes=10,
        depths=(1, 1, 1, 1),
        dims=(16, 32, 48, 64),
        downsample_norm=None,
        norm_layers=metaformer.GroupNorm1,
        layer_scale_init_values=1e-5,
        res_scale_init_values=None,
        use_mlp_head=False,
    )
    return model


class Output(nn.Module):
    """A segmentation model of torchvision, its main output only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: Tensor) -> Tensor:
        """Return the classes of every pixel."""
        result: Tensor = self.model(values)["out"]
        return result


_SIZE, _RGB = (3, 64, 64), (3, 96, 96)
_TEXT = {
    "vocab_size": 500,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_VISION = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
_SOUND = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (24, 24, 24),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
_FLAT = {"spatial_dims": 2, "in_channels": 1}
_NARROW: dict[str, Any] = {"encoder_depth": 3, "decoder_channels": (32, 24, 16), "classes": 2}

MODELS: dict[str, Entry] = {
    # signals
    "signal_m5": Entry(signals.m5, (1, 2000)),
    "signal_keywords": Entry(signals.keywords, (1, 49, 20)),
    "signal_inceptiontime": Entry(
        lambda: signals.pooled(signals.Inception(3, 8), signals.Inception(32, 8), width=32), (3, 128)
    ),
    "signal_tcn": Entry(
        lambda: signals.pooled(signals.Chomped(3, 16, 1), signals.Chomped(16, 16, 2), width=16), (3, 128)
    ),
    "signal_wavenet": Entry(lambda: signals.Gated(16, (1, 2, 4, 8)), (1, 256)),
    "signal_ecg": Entry(
        lambda: signals.pooled(signals.Residual(1, 16, 2), signals.Residual(16, 32, 2), width=32), (1, 256)
    ),
    "signal_lstm": Entry(lambda: signals.Recurrent(nn.LSTM), (3, 64)),
    "signal_gru": Entry(lambda: signals.Recurrent(nn.GRU), (3, 64)),
    "monai_unet1d": Entry(
        monai("UNet", spatial_dims=1, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2)), (1, 256)
    ),
    # torchvision
    "tv_squeezenet1_1": Entry(tv("squeezenet1_1", num_classes=10), _SIZE),
    "tv_mobilenet_v2": Entry(tv("mobilenet_v2", width_mult=0.35, num_classes=10), _SIZE),
    "tv_mobilenet_v3_small": Entry(tv("mobilenet_v3_small", num_classes=10, width_mult=0.5), _SIZE),
    "tv_shufflenet_v2_x0_5": Entry(tv("shufflenet_v2_x0_5", num_classes=10), _SIZE),
    "tv_mnasnet0_5": Entry(tv("mnasnet0_5", num_classes=10), _SIZE),
    "tv_resnet18": Entry(tv("resnet18", num_classes=10), _SIZE),
    "tv_resnet_bottleneck": Entry(_tv_resnet("Bottleneck", width_per_group=16), _SIZE, is_small=True),
    "tv_resnext": Entry(_tv_resnet("Bottleneck", groups=4, width_per_group=4), _SIZE, is_small=True),
    "tv_densenet": Entry(
        tv("DenseNet", growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=10),
        _SIZE,
        is_small=True,
    ),
    "tv_efficientnet": Entry(lambda: _tv_efficientnet(False), _SIZE, is_small=True),
    "tv_efficientnet_v2": Entry(lambda: _tv_efficientnet(True), _SIZE, is_small=True),
    "tv_regnet": Entry(_tv_regnet, _SIZE, is_small=True),
    "tv_convnext": Entry(_tv_convnext, _SIZE, is_small=True),
    "tv_vit": Entry(
        tv(
            "VisionTransformer",
            image_size=64,
            patch_size=16,
            num_layers=2,
            num_heads=4,
            hidden_dim=48,
            mlp_dim=96,
            num_classes=10,
        ),
        _SIZE,
        is_small=True,
    ),
    "tv_swin": Entry(
        tv(
            "SwinTransformer",
            patch_size=[4, 4],
            embed_dim=24,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=[4, 4],
            num_classes=10,
        ),
        _SIZE,
        is_small=True,
    ),
    "tv_googlenet": Entry(tv("googlenet", num_classes=10, aux_logits=False, init_weights=False), _SIZE),
    "tv_lraspp_mobilenet_v3": Entry(_tv_lraspp, _SIZE),
    # timm
    "timm_efficientnet_lite0": Entry(timm("efficientnet_lite0"), _SIZE),
    "timm_mobilenetv4_conv_small_050": Entry(timm("mobilenetv4_conv_small_050"), _SIZE),
    "timm_lcnet_050": Entry(timm("lcnet_050"), _SIZE),
    "timm_ghostnet_050": Entry(timm("ghostnet_050"), _SIZE),
    "timm_repvgg": Entry(timm("repvgg_a0", block_args=None), _SIZE),
    "timm_rexnet": Entry(timm("rexnetr_100", width_mult=0.4), _SIZE, is_small=True),
    "timm_resnest14d": Entry(timm("resnest14d", stem_width=8, base_width=16), _SIZE, is_small=True),
    "timm_dla46_c": Entry(timm("dla46_c"), _SIZE),
    "timm_ese_vovnet19b_slim_dw": Entry(timm("ese_vovnet19b_slim_dw"), _SIZE),
    "timm_starnet_s1": Entry(timm("starnet_s1", base_dim=12, depths=[1, 1, 2, 1]), _SIZE, is_small=True),
    "timm_inception_next_atto": Entry(timm("inception_next_atto", depths=(1, 1, 1, 1)), _SIZE, is_small=True),
    "timm_convnextv2_atto": Entry(
        timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48)), _SIZE, is_small=True
    ),
    "timm_poolformer_s12": Entry(_timm_poolformer, _SIZE, is_small=True),
    "timm_mixer": Entry(_timm_mixer, _SIZE, is_small=True),
    "timm_resmlp": Entry(lambda: _timm_mixer("ResBlock", "Affine"), _SIZE, is_small=True),
    "timm_deit_tiny": Entry(
        timm("deit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3), _SIZE, is_small=True
    ),
    "timm_beit": Entry(
        timm("beit_base_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3), _SIZE, is_small=True
    ),
    "timm_eva02": Entry(
        timm("eva02_tiny_patch14_224", img_size=56, embed_dim=48, depth=2, num_heads=3), (3, 56, 56), is_small=True
    ),
    "timm_levit": Entry(
        timm("levit_128s", img_size=64, embed_dim=(48, 64), num_heads=(3, 4), depth=(1, 1), key_dim=16),
        _SIZE,
        is_small=True,
    ),
    "timm_efficientvit_b0": Entry(
        timm("efficientvit_b0", widths=(8, 16, 24, 32, 48), depths=(1, 1, 1, 1, 1), head_widths=(96, 64)),
        _SIZE,
        is_small=True,
    ),
    "timm_edgenext": Entry(timm("edgenext_xx_small", dims=(16, 24, 32, 48), depths=(1, 1, 2, 1)), _SIZE, is_small=True),
    "timm_mobilevit_xxs": Entry(timm("mobilevit_xxs"), _SIZE),
    "timm_mobileone_s0": Entry(timm("mobileone_s0"), _SIZE),
    "timm_pvt_v2_b0": Entry(
        timm("pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
        _SIZE,
        is_small=True,
    ),
    "timm_efficientformer": Entry(
        timm("efficientformer_l1", depths=(1, 1, 1, 2), embed_dims=(16, 24, 32, 48)), (3, 224, 224), is_small=True
    ),
    "timm_swinv2": Entry(
        timm("swinv2_cr_tiny_224", img_size=64, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4),
        _SIZE,
        is_small=True,
    ),
    # segmentation-models-pytorch
    "smp_unet": Entry(smp("Unet", **_NARROW), _SIZE, is_small=True),
    "smp_unet_mobilenet_v2": Entry(smp("Unet", "mobilenet_v2", **_NARROW), _SIZE, is_small=True),
    "smp_unetplusplus": Entry(smp("UnetPlusPlus", **_NARROW), _SIZE, is_small=True),
    "smp_linknet": Entry(smp("Linknet", encoder_depth=3, classes=2), _SIZE, is_small=True),
    "smp_manet": Entry(smp("MAnet", **_NARROW, decoder_pab_channels=16), _SIZE, is_small=True),
    "smp_fpn": Entry(
        smp("FPN", decoder_pyramid_channels=32, decoder_segmentation_channels=32, classes=2), _SIZE, is_small=True
    ),
    "smp_pspnet": Entry(smp("PSPNet", encoder_depth=3, psp_out_channels=32, classes=2), _RGB, is_small=True),
    "smp_deeplabv3plus": Entry(
        smp("DeepLabV3Plus", decoder_channels=32, decoder_atrous_rates=(2, 4, 6), classes=2), _SIZE, is_small=True
    ),
    "smp_segformer": Entry(smp("Segformer", decoder_segmentation_channels=32, classes=2), _SIZE, is_small=True),
    # MONAI
    "monai_unet": Entry(
        monai("UNet", **_FLAT, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1), (1, 64, 64)
    ),
    "monai_basicunet": Entry(
        monai("BasicUNet", **_FLAT, out_channels=2, features=(8, 8, 16, 16, 32, 8)), (1, 64, 64), is_small=True
    ),
    "monai_attentionunet": Entry(
        monai("AttentionUnet", **_FLAT, out_channels=2, channels=(8, 16, 32), strides=(2, 2)), (1, 64, 64)
    ),
    "monai_dynunet": Entry(
        monai(
            "DynUNet",
            **_FLAT,
            out_channels=2,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[8, 16, 32],
        ),
        (1, 64, 64),
    ),
    "monai_segresnet": Entry(
        monai("SegResNet", **_FLAT, out_channels=2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
        (1, 64, 64),
        is_small=True,
    ),
    "monai_vnet": Entry(monai("VNet", **_FLAT, out_channels=2), (1, 32, 32)),
    "monai_highresnet": Entry(monai("HighResNet", **_FLAT, out_channels=2), (1, 32, 32)),
    "monai_autoencoder": Entry(
        monai("AutoEncoder", **_FLAT, out_channels=1, channels=(8, 16), strides=(2, 2)), (1, 64, 64)
    ),
    "monai_densenet": Entry(
        monai("DenseNet", **_FLAT, out_channels=4, init_features=16, growth_rate=8, block_config=(2, 2)),
        (1, 64, 64),
        is_small=True,
    ),
    # transformers
    "hf_bert": Entry(hugging("BertModel", **_TEXT), (16,), vocabulary=500, is_small=True),
    "hf_distilbert": Entry(
        hugging(
            "DistilBertModel", vocab_size=500, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=64
        ),
        (16,),
        vocabulary=500,
        is_small=True,
    ),
    "hf_electra": Entry(hugging("ElectraModel", **_TEXT, embedding_size=32), (16,), vocabulary=500, is_small=True),
    "hf_vit": Entry(hugging("ViTModel", **_VISION), _SIZE, is_small=True),
    "hf_dinov2": Entry(hugging("Dinov2Model", **_VISION, mlp_ratio=2), _SIZE, is_small=True),
    "hf_resnet": Entry(
        hugging("ResNetModel", embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 1, 1], layer_type="basic"),
        _SIZE,
        is_small=True,
    ),
    "hf_convnext": Entry(
        hugging("ConvNextModel", num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]), _SIZE, is_small=True
    ),
    "hf_segformer": Entry(
        hugging(
            "SegformerModel",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[4, 2],
            hidden_sizes=[16, 32],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
        ),
        _SIZE,
        is_small=True,
    ),
    "hf_mobilevit": Entry(
        hugging(
            "MobileViTModel",
            image_size=64,
            hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64],
            num_attention_heads=2,
        ),
        _SIZE,
        is_small=True,
    ),
    "hf_swin": Entry(
        hugging("SwinModel", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
        _SIZE,
        is_small=True,
    ),
    "hf_wav2vec2": Entry(hugging("Wav2Vec2Model", **_SOUND), (1600,), is_small=True),
    "hf_whisper_encoder": Entry(
        lambda: Only(
            library("transformers.models.whisper.modeling_whisper").WhisperEncoder(
                library("transformers").WhisperConfig(
                    d_model=48,
                    encoder_layers=2,
                    encoder_attention_heads=4,
                    encoder_ffn_dim=96,
                    num_mel_bins=20,
                    max_source_positions=50,
                    attn_implementation="eager",
                )
            ),
            "last_hidden_state",
        ),
        (20, 100),
        is_small=True,
    ),
}
