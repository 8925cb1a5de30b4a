import torch

from equipoise.models import PreActResNet


def test_what_a_shortcut_reads_changes_logits_and_repr(images):
    torch.manual_seed(0)
    activated = PreActResNet(width=4, classes=3).eval()
    raw = PreActResNet(width=4, classes=3, shortcut="raw").eval()
    raw.load_state_dict(activated.state_dict())
    assert not torch.allclose(raw(images), activated(images))
    assert repr(raw) != repr(activated)  # an evaluation identifies a model by its repr
