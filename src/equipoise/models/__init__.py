"""Networks: backbones, branches, AFA's weight generator, AFS's stack, and the model folder."""

from equipoise.models.branches import Branched as Branched
from equipoise.models.branches import MultiBatchNorm2d as MultiBatchNorm2d
from equipoise.models.branches import with_branches as with_branches
from equipoise.models.film import Conditional as Conditional
from equipoise.models.film import conditioned as conditioned
from equipoise.models.folder import load as load
from equipoise.models.folder import save as save
from equipoise.models.fusion import AdaptiveNetwork as AdaptiveNetwork
from equipoise.models.fusion import FusedBatchNorm2d as FusedBatchNorm2d
from equipoise.models.fusion import fuse as fuse
from equipoise.models.modes import attack_mode as attack_mode
from equipoise.models.stack import FeatureExtractor as FeatureExtractor
from equipoise.models.stack import FeatureStack as FeatureStack
from equipoise.models.synced import synchronised as synchronised
from equipoise.models.weight_generator import WeightGenerator as WeightGenerator
from equipoise.models.wide_resnet import WideResNet as WideResNet
