"""Networks: backbones, branches, AFA's weight generator, AFS's stack, and the model folder."""

from equipoise.models.afa.adaptive_network import AdaptiveNetwork, fuse
from equipoise.models.afa.branches import Branched, MultiBatchNorm2d, with_branches
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.models.backbones.common import Normalise
from equipoise.models.backbones.pretrained import load_public
from equipoise.models.backbones.resnet import PreActResNet, ResNet
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.conditional_network import Conditional, conditioned
from equipoise.models.cost import count_parameters, multiply_adds
from equipoise.models.feature_stack import FeatureExtractor, FeatureStack
from equipoise.models.io.model_folder import load, save

__all__ = [
    "AdaptiveNetwork",
    "Branched",
    "Conditional",
    "FeatureExtractor",
    "FeatureStack",
    "FusedBatchNorm2d",
    "MultiBatchNorm2d",
    "Normalise",
    "PreActResNet",
    "ResNet",
    "WeightGenerator",
    "WideResNet",
    "conditioned",
    "count_parameters",
    "fuse",
    "load",
    "load_public",
    "multiply_adds",
    "save",
    "with_branches",
]
