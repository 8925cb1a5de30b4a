"""Networks: backbones, branches, AFA's weight generator, AFS's stack, and the model folder."""

from equipoise.models.branches import Branched as Branched
from equipoise.models.branches import MultiBatchNorm2d as MultiBatchNorm2d
from equipoise.models.branches import with_branches as with_branches
from equipoise.models.cost import count_parameters as count_parameters
from equipoise.models.cost import multiply_adds as multiply_adds
from equipoise.models.film import Conditional as Conditional
from equipoise.models.film import conditioned as conditioned
from equipoise.models.folder import load as load
from equipoise.models.folder import save as save
from equipoise.models.fused_norm import FusedBatchNorm2d as FusedBatchNorm2d
from equipoise.models.fusion import AdaptiveNetwork as AdaptiveNetwork
from equipoise.models.fusion import fuse as fuse
from equipoise.models.image_input import Normalise as Normalise
from equipoise.models.modes import attack_mode as attack_mode
from equipoise.models.public_weights import load_public as load_public
from equipoise.models.resnet import PreActResNet as PreActResNet
from equipoise.models.resnet import ResNet as ResNet
from equipoise.models.stack import FeatureExtractor as FeatureExtractor
from equipoise.models.stack import FeatureStack as FeatureStack
from equipoise.models.synced import synchronised as synchronised
from equipoise.models.weight_generator import WeightGenerator as WeightGenerator
from equipoise.models.wide_resnet import WideResNet as WideResNet
