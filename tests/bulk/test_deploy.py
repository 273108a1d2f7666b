"""The example of a cluster, checked by Ray itself."""

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / "deploy" / "ray-cluster.yaml"


def test_ray_accepts_the_example_of_a_cluster():
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(config))
    with pytest.raises(Exception, match="'autoscaling' was unexpected"):
        util.validate_config(util.prepare_config({**config, "autoscaling": True}))
