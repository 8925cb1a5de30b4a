"""Networks: backbones, the networks of AFA, AFS and OAT, and model folders."""

from equipoise.models.afa.adaptive_network import AdaptiveNetwork, fuse_branches
from equipoise.models.afa.branches import BranchedNetwork, MultiBatchNorm2d, with_branches
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.afa.layer_placement import AtLayer
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.models.afs import FeatureExtractor, FeatureStack
from equipoise.models.backbones.common import Normalise
from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.resnet import ResNet
from equipoise.models.backbones.resnet9 import ResNet9
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.conditional_network import ConditionalNetwork, with_conditioning
from equipoise.models.cost import count_multiply_adds, count_parameters
from equipoise.models.io.model_folder import load, save
from equipoise.models.io.pretrained import load_pretrained

__all__ = [
    "AdaptiveNetwork",
    "AtLayer",
    "BranchedNetwork",
    "ConditionalNetwork",
    "FeatureExtractor",
    "FeatureStack",
    "FusedBatchNorm2d",
    "MultiBatchNorm2d",
    "Normalise",
    "PreActResNet",
    "ResNet",
    "ResNet9",
    "WeightGenerator",
    "WideResNet",
    "count_multiply_adds",
    "count_parameters",
    "fuse_branches",
    "load",
    "load_pretrained",
    "save",
    "with_branches",
    "with_conditioning",
]
