import json

from equipoise.runtime.environment import environment


def test_environment_names_commit_versions_and_hardware():
    found = environment()
    assert {"commit", "python", "versions", "platform", "processor", "cores", "devices"} <= set(
        found
    )
    assert {"equipoise", "torch", "numpy"} <= set(found["versions"])
    assert json.loads(json.dumps(found)) == found
