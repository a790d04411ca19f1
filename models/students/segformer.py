"""SegFormer-B0 of transformers with random weights: Xie et al., "SegFormer", NeurIPS 2021."""

from torch import Tensor, nn

from models import torchvision_cpu

torchvision_cpu.ensure()

from transformers import SegformerConfig, SegformerForSemanticSegmentation  # noqa: E402

DROPOUT = 0.1  # the paper's, before the classifier


class SegformerEncoder(nn.Module):
    """The Mix Transformer: float [B, 3, H, W] to four maps of 32, 64, 160, 256 channels at stride 4, 8, 16, 32."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.encoder(x, output_hidden_states=True).hidden_states)


def segformer_b0() -> tuple[SegformerEncoder, nn.Module, int]:
    """(encoder, all-MLP head without its classifier, channels that the head gives). The config's defaults are B0."""
    config = SegformerConfig(classifier_dropout_prob=0.0)  # the student drops out itself, behind its features
    model = SegformerForSemanticSegmentation(config)
    model.decode_head.classifier = nn.Identity()
    return SegformerEncoder(model.segformer), model.decode_head, config.decoder_hidden_size
